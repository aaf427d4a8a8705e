"""Compiled kernels in the cache: when they are compiled again, and what is never loaded."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import Module

SOURCE = '#include "factor.cuh"\nextern "C" __global__ void scale(float* y) { y[threadIdx.x] *= FACTOR; }\n'


def scaled(path):
    y = emulator.asarray(np.ones(3, np.float32))
    Module(path, {}).kernel("scale")(1, 3, y)
    return y[0]


@pytest.mark.slow
def test_a_planted_library_is_not_loaded_from_a_cache_that_anyone_can_write_to(tmp_path, monkeypatch):
    """The library of another kernel, with a correct digest, is loaded only from a cache that others cannot write to."""
    (tmp_path / "scale.cu").write_text(SOURCE)
    entries = {}
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    for factor in (7, 3):
        (tmp_path / "factor.cuh").write_text(f"#define FACTOR {factor}\n")
        assert scaled(tmp_path / "scale.cu") == factor
        (entries[factor],) = set((tmp_path / "cache").glob("scale*")) - set(entries.values())
    for mode, expected in ((0o755, 7), (0o777, 3)):
        root = tmp_path / f"{mode:o}"
        shutil.copytree(entries[7], root / entries[3].name)
        root.chmod(mode)
        monkeypatch.setenv("GPUCONV_CACHE_DIR", str(root))
        warned = pytest.warns(RuntimeWarning, match=rf"others can write {root}\)") if expected == 3 else nullcontext()
        with warned:
            assert scaled(tmp_path / "scale.cu") == expected


def test_an_edited_header_triggers_a_new_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text('#include "inner.cuh"\n')
    for factor in (2, 5, 2):
        (tmp_path / "inner.cuh").write_text(f"#define FACTOR {factor}\n")
        assert scaled(tmp_path / "scale.cu") == factor
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name.startswith("scale")]) == 2


def test_a_corrupt_library_is_recompiled_and_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 3\n")
    assert scaled(tmp_path / "scale.cu") == 3
    (library,) = (tmp_path / "cache").glob("scale*/library.so")
    intact = library.read_bytes()
    library.unlink()  # the loaded file is unchanged; a new one takes its name
    library.write_bytes(intact[: len(intact) // 2])
    assert scaled(tmp_path / "scale.cu") == 3
    assert library.stat().st_size > len(intact) // 2


@pytest.mark.slow
def test_three_processes_may_fill_the_cache_at_once(tmp_path):
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 7\n")
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from gpuconv.backends.cuda import emulator\n"
        "from gpuconv.backends.cuda.runtime import kernel\n"
        "y = emulator.asarray(np.ones(3, np.float32))\n"
        "kernel.Module(Path(sys.argv[1]), {}).kernel('scale')(1, 3, y)\n"
        "print(float(y[0]))"
    )
    environment = os.environ | {"GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program, str(tmp_path / "scale.cu")]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "7.0", err
        assert process.returncode == 0
    assert sorted(path.name.split("-")[0] for path in Path(tmp_path / "cache").iterdir()) == ["runtime", "scale"]
