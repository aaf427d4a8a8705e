"""gpuconv info: devices, versions, the cache, and the optional packages."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpuconv.cli import info, main


def test_info_lists_devices_the_cache_and_optional_packages(monkeypatch, capsys, tmp_path):
    from gpuconv import backends
    from gpuconv.backends.cuda import cache

    def version(package):
        if package in ("numpy", "matplotlib"):
            return "1.2.3"
        raise info.metadata.PackageNotFoundError(package)

    def describe(name):
        if name == "numpy":
            return "a  cpu\nof two cores"
        raise backends.DeviceError("none here")

    for entry in ("a", "b"):
        (tmp_path / entry).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(info.metadata, "version", version)
    monkeypatch.setattr(backends, "describe", describe)
    monkeypatch.setattr(backends, "choose", lambda: ("numpy", "no GPU"))
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("devices") :][:5] == [
        "devices",
        "  numpy         ready: a cpu of two cores",
        "  emulated      not available: none here",
        "  cuda          not available: none here",
        "  auto takes    numpy: no GPU",
    ]
    assert f"  cache         {tmp_path} (entries: 2)" in lines
    assert lines[lines.index("optional packages") :] == [
        "optional packages",
        "  matplotlib    1.2.3 (pictures)",
        "  mpi4py        not installed (several processes): python -m pip install 'gpuconv[mpi]'",
        "  pillow        not installed (image files): python -m pip install 'gpuconv[image]'",
        "  requests      not installed (downloads): python -m pip install 'gpuconv[download]'",
        "  onnx          not installed (ONNX files): python -m pip install 'gpuconv[onnx]'",
        "  starlette     not installed (the live page): python -m pip install 'gpuconv[live]'",
        "  uvicorn       not installed (the live page): python -m pip install 'gpuconv[live]'",
        "  tensorboardX  not installed (logs for TensorBoard): python -m pip install 'gpuconv[tensorboard]'",
        "  shtab         not installed (completion in a shell): python -m pip install 'gpuconv[completion]'",
        "  cupy-cuda12x  not installed (GPU arrays, CUDA 12): python -m pip install 'gpuconv[cuda12]'",
        "  cupy-cuda13x  not installed (GPU arrays, CUDA 13): python -m pip install 'gpuconv[cuda13]'",
        "  cuda-core     not installed (kernel compiler): python -m pip install 'gpuconv[cuda12]'",
        "  torch         not installed (gpuconv.torch, and comparisons): python -m pip install torch",
    ]
    monkeypatch.setattr(cache, "directory", lambda: tmp_path / "none")
    assert main(["info"]) == 0
    assert f"  cache         {tmp_path / 'none'} (entries: 0)" in capsys.readouterr().out.splitlines()


def test_info_names_the_devices_and_packages_of_this_machine(capsys):
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^  numpy +ready: ", output, re.M)
    for name in ("emulated", "cuda"):
        assert re.search(rf"^  {name} +(ready|not available): \S", output, re.M)
    for name in ("driver", "NVRTC", "C\\+\\+ compiler"):
        assert re.search(rf"^  {name} +(CUDA \d|NVRTC \d|/|not available: \S)", output, re.M)
    for name in ("python", "BLAS", "cache", "auto takes", "matplotlib", "gpuconv["):
        assert name in output


@pytest.mark.parametrize(
    ("kernels", "found", "slow"),
    [
        ("Haswell", ["X86_V3", "X86_V4"], True),
        ("Zen", ["AVX2", "AVX512_SKX"], True),
        ("Haswell", ["X86_V3"], False),
        ("SkylakeX", ["X86_V3", "X86_V4"], False),
        ("", ["X86_V4"], False),
        ("neoversen1", [], False),
    ],
)
def test_info_notes_a_blas_that_leaves_the_avx512_of_the_processor_unused(capsys, monkeypatch, kernels, found, slow):
    from gpuconv.backends.cpu import blas

    extensions = {"found": found} if found else {}  # NumPy leaves empty entries out
    config = {"SIMD Extensions": extensions, "Build Dependencies": {"blas": {"name": "a BLAS"}}}
    monkeypatch.setattr(blas, "kernels", lambda: kernels)
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert (f"a BLAS with kernels for {kernels}" in output) == bool(kernels)
    assert ("which OpenBLAS leaves unused" in output) == slow


def test_info_says_what_is_missing_and_why(capsys, monkeypatch):
    from gpuconv.backends.cuda.emulator import EmulatorError, cxx
    from gpuconv.backends.cuda.runtime import nvrtc

    def missing(error):
        raise error

    monkeypatch.setattr(nvrtc, "driver_version", lambda: missing(nvrtc.CompileError("no libcuda")))
    monkeypatch.setattr(nvrtc, "toolkit", lambda: missing(nvrtc.CompileError("no NVRTC wheel")))
    monkeypatch.setattr(cxx, "version", lambda: missing(EmulatorError("no compiler on the path")))
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    causes = {"driver": "no libcuda", "NVRTC": "no NVRTC wheel", "C++ compiler": "no compiler on the path"}
    for name, cause in causes.items():
        assert re.search(rf"^  {re.escape(name)} +not available: {cause}$", output, re.M)
