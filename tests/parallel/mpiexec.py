"""Runs programs on several ranks under the mpiexec of the extra `mpi`."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = "ranks need mpi4py and mpich: pip install 'gpuconv[mpi]'"


def mpich_file(name):
    """A file of the package mpich; skips the test if the extra is not installed."""
    pytest.importorskip("mpi4py", reason=NEEDED)
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:  # another MPI library, such as that of the operating system
        pytest.skip(NEEDED)
    return next(str(Path(file.locate()).resolve()) for file in files if file.name == name)


def command(ranks, *arguments, options=()):
    return [mpich_file("mpiexec"), *options, "-n", str(ranks), sys.executable, *map(str, arguments)]


def environment():
    """Variables for one thread per rank and for MPICH's library, which mpi4py does not find in a nested virtual
    environment."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"OPENBLAS_NUM_THREADS": "1", "MPI4PY_LIBMPI": mpich_file("libmpi.so.12"), "PYTHONPATH": path}


def run(ranks, *arguments, options=(), timeout=120):
    """The finished process of `python ARGUMENTS` on that many ranks."""
    line = command(ranks, *arguments, options=options)
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=timeout)


def train(ranks, *options):
    return run(ranks, "-m", "gpuconv", "train", "--device", "numpy", *options)
