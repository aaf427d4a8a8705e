"""What importing gpuconv loads, and how long it takes."""

from __future__ import annotations

import pytest

from tests.python_process import python

HEAVY = [
    "cupy",
    "cuda",
    "matplotlib",
    "PIL",
    "scipy",
    "torch",
    "tqdm",
    "safetensors",
    "ml_dtypes",
    "requests",
    "nvtx",
    "threadpoolctl",
    "onnx",
    "onnxruntime",
    "tensorboardX",
    "mpi4py",
    "xxhash",
]

# Standard library modules that take milliseconds to load and that few runs need: they are imported where they are used.
SELDOM_NEEDED = [
    "hashlib",
    "html",
    "importlib.resources",
    "pickletools",
    "secrets",
    "shutil",
    "socket",
    "subprocess",
    "tarfile",
    "tempfile",
    "zipfile",
]


@pytest.mark.parametrize("module", ["gpuconv", "gpuconv.cli"])
def test_import_loads_no_heavy_packages(module):
    loaded = python(f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))")
    assert not set(HEAVY) & set(loaded.split())


def test_import_loads_no_numpy_before_it_is_needed():
    printed = python("import sys, gpuconv as gc; print('numpy' in sys.modules, gc.asarray is gc.asarray)")
    assert printed == "False True"


def test_importing_the_trainer_loads_no_heavy_packages_and_no_seldom_needed_modules():
    code = "import sys, numpy; numpys = set(sys.modules); import gpuconv as gc; gc.ops, gc.Sequential, gc.Trainer"
    loaded = set(python(code + "; print(*set(sys.modules) - numpys)").split())
    assert "gpuconv.training.trainer" in loaded
    assert sorted(loaded & {*HEAVY, *SELDOM_NEEDED}) == []


def test_the_import_time_is_limited_relative_to_numpys(tmp_path):
    """Both imports are timed in one process, under the same load. `bench` measures the milliseconds on a quiet machine.

    Python caches compiled modules, as it does for users, in a folder of this test.
    """
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    code = """
import time
start = time.process_time()
import numpy
alone = time.process_time() - start
import gpuconv.{}
print(alone, time.process_time() - start)
"""
    for name, limit in (("ops", 2), ("training", 3.5)):
        python(f"import gpuconv.{name}", **cached)
        alone, both = zip(*(map(float, python(code.format(name), **cached).split()) for _ in range(3)))
        assert min(both) < limit * min(alone)
