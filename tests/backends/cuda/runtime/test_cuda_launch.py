"""Launches on a GPU, with a stand-in for CuPy: what is loaded and passed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.backends.cuda.runtime import cubin_path, nvrtc
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.source import resolve
from gpuconv.backends.cuda.runtime.structs import struct
from tests.backends.cuda.fake_cupy import DeviceArray

ONE_ROW = struct(np.dtype([(name, np.int64) for name in ("count", "to", "from", "saved")], align=True), 1, 0, 0, 0)


@pytest.mark.parametrize("folder", ["caf\u00e9", "caf\udce9"], ids=["not ASCII", "undecodable"])
def test_a_binary_is_loaded_from_a_folder_with_any_name(cupy, monkeypatch, tmp_path, folder):
    """The loaded path is ASCII. CuPy encodes a path as UTF-8, so it refuses undecodable bytes, and Windows drivers
    expect another encoding."""
    entry = tmp_path / folder / "activation-sm_90a-0123"
    entry.mkdir(parents=True)
    (entry / "kernel.cubin").write_bytes(b"a binary")
    binary = SimpleNamespace(path=entry / "kernel.cubin")
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *_: binary)
    module = Module(resolve("activation.cu"), {"DTYPE": "float32", "WIDTH": "4"})
    module.kernel("relu_forward")(1, 128, DeviceArray("float32"), DeviceArray("float32"), 8, ONE_ROW)
    (loaded,) = cupy.loaded
    assert loaded.isascii()
    assert Path(loaded).read_bytes() == b"a binary"
    monkeypatch.setattr(cubin_path, "_folder_of_copies", lambda: tmp_path / folder)
    with pytest.raises(nvrtc.CompileError, match="not ASCII; set GPUCONV_CACHE_DIR"):
        cubin_path.loadable(binary.path)


def test_a_launch_passes_grid_block_and_packed_arguments(cupy, monkeypatch):
    monkeypatch.setattr(
        nvrtc, "compile_cubin", lambda name, text, defines, arch: SimpleNamespace(path=f"{name}.{arch}")
    )
    module = Module(resolve("activation.cu"), {"DTYPE": "float32", "WIDTH": "4"})
    y, x = DeviceArray("float32", device=1), DeviceArray("float32", device=1)
    kernel = module.kernel("leaky_relu_forward")
    for shared in (0, 100_000, 48 * 1024):
        kernel((3, 2), 128, y, None, 8, ONE_ROW, 0.5, shared=shared)
    kernel(0, 128, y, x, 0, ONE_ROW, 0.5)
    first, second, _ = cupy.launches
    assert cupy.loaded == ["activation.sm_90a"]
    assert first[:4] == ("leaky_relu_forward", 1, (3, 2, 1), (128, 1, 1))
    assert first.arguments[0] is y
    assert [(type(a), a) for a in first.arguments[1:]] == [
        (np.uintp, 0),
        (np.int64, 8),
        (np.void, ONE_ROW),
        (np.float64, 0.5),
    ]
    assert (first.shared, second.shared) == (0, 100_000)
    assert first.function.max_dynamic_shared_size_bytes == 100_000
    with pytest.raises(TypeError, match="one device, received y on cuda:1, x on cuda:0"):
        kernel(1, 128, y, DeviceArray("float32", device=0), 8, ONE_ROW, 0.5)
    kernel(1, 128, DeviceArray("float32"), DeviceArray("float32"), 8, ONE_ROW, 0.5, shared=48 * 1024)
    assert cupy.launches[-1].function.max_dynamic_shared_size_bytes == 48 * 1024  # set for cuda:0 too
    assert len(cupy.loaded) == 2  # each device loads the binary
    assert cupy.launches[-1].device == 0


def test_a_gpu_compile_goes_through_nvrtc(cupy, tmp_path, monkeypatch):
    pytest.importorskip("cuda.bindings", reason="NVRTC is not installed")
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path))
    load(resolve("arithmetic.cu"), {"DTYPE": "float16", "WIDTH": 8})._on_gpu(0)
    assert cupy.loaded[0].endswith("kernel.cubin")
    assert cupy.loaded[0].startswith(str(tmp_path / "arithmetic-sm_90a-"))
