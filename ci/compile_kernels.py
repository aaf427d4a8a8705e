"""Compiles every kernel of the library and of the GPU gate for sm_90a: python -m pytest -n auto ci/compile_kernels.py

Each kernel has a test of its own, because an old NVRTC may crash: pytest-xdist then names the kernel, and goes on in a
new process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import pack_cubins


def name_of(job: pack_cubins.Job) -> str:
    file, macros = job
    return ",".join([Path(file).name, *(f"{macro}={value}" for macro, value in macros)])


@pytest.mark.parametrize("job", pack_cubins.kernels_of_the_gate(), ids=name_of)
def test_a_kernel_compiles(job):
    pack_cubins.compile_job(job, "sm_90a")
