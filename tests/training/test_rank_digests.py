"""The digests of the source files that ranks compare."""

from __future__ import annotations

from importlib import resources

import pytest

from gpuconv.training import rank_digests


def test_every_kind_of_source_file_has_a_digest():
    digests = rank_digests.code()
    assert {"kernels/pool.cuh", "gpuconv/losses.py", "gpuconv/backends/cuda/emulator/device.h"} <= digests.keys()


@pytest.mark.parametrize("kernels", ["kernels", "gpuconv/kernels"], ids=["checkout", "wheel"])
def test_a_kernel_has_one_digest_and_the_same_path_in_a_checkout_and_in_a_wheel(kernels, monkeypatch, tmp_path):
    files = {
        "kernels/pool.cuh": kernels,
        "gpuconv/losses.py": "gpuconv",
        "gpuconv/training/rank_digests.py": "gpuconv/training",
    }
    for name, folder in files.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name.rpartition("/")[2]).write_text(name)
    monkeypatch.setattr(rank_digests, "__file__", str(tmp_path / "gpuconv/training/rank_digests.py"))
    monkeypatch.setattr(resources, "files", lambda package: {"gpuconv.kernels": tmp_path / kernels}[package])
    assert rank_digests.code.__wrapped__() == {name: rank_digests.of(name.encode()) for name in files}
