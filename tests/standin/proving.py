"""A child process that proves an unproved kernel on the stand-in, with a planted fault.

python -c "from tests.standin.proving import main; main()" GPU SCHEDULE FAULT
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np

from gpuconv import algorithms, to_numpy
from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.gemm import launch
from gpuconv.verify.algorithm_check import RUNS
from tests import standin
from tests.algorithm_table import with_algorithm
from tests.standin.errors import CUDARuntimeError

NAME = "new-32x32"


@contextlib.contextmanager
def new_family() -> Iterator[Algorithm]:
    """The SIMT kernels of a known tile, compiled with another MIN_BLOCKS, as an algorithm that no GPU has run."""
    known = algorithms.find("simt-32x32", "float32")
    with with_algorithm(known, name=NAME, macros=dict(known.macros) | dict(MIN_BLOCKS=7), proved=False) as new:
        yield new


def command(gpu: str, schedule: str, fault: str) -> list[str]:
    return [sys.executable, "-P", "-c", "from tests.standin.proving import main; main()", gpu, schedule, fault]


def main() -> None:
    from gpuconv.verify import prover_child

    gpu, schedule, fault = sys.argv[1:]
    with new_family(), standin.installed([gpu], schedule=schedule), planted(fault):
        prover_child.main()


@contextlib.contextmanager
def planted(fault: str, algorithm: str = NAME) -> Iterator[None]:
    """Within this context launches of the algorithm have the given fault of `FAULTS`; "none" plants no fault."""
    original, count = launch.launch, 0

    def wrong(product, plan, out, secondary, inputs, **options):
        nonlocal count
        faulty = plan.algorithm.name == algorithm
        if faulty and fault in _BEFORE:
            _BEFORE[fault]()
        result = original(product, plan, out, secondary, inputs, **options)
        if faulty and fault in _AFTER:
            count += 1
            _AFTER[fault](out, inputs, count)
        return result

    launch.launch = wrong
    try:
        yield
    finally:
        launch.launch = original


def _hang() -> None:
    time.sleep(60)


def _crash() -> None:
    ctypes.string_at(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _no_memory() -> None:
    raise MemoryError("Out of memory allocating 3 GB")


def _illegal_address() -> None:
    raise CUDARuntimeError("cudaErrorIllegalAddress")


def _wrong_value(out, inputs, count: int) -> None:
    out.reshape(-1)[-1:].fill(1000.0)


def _wrong_slice(out, inputs, count: int) -> None:
    if not out.flags.c_contiguous:
        out[-1:, ..., -1:].fill(1000.0)


def _slightly_wrong(out, inputs, count: int) -> None:
    """Changes the last value of the output by far less than the error that is allowed for random numbers."""
    last = out.reshape(-1)[-1:]
    last.fill(float(to_numpy(last)[0]) + 1e-5)


def _unwritten(out, inputs, count: int) -> None:
    out.reshape(-1)[-1:].fill(np.nan)


def _differing_result(out, inputs, count: int) -> None:
    first = out.reshape(-1)[:1]
    if count % 2:
        first.fill(float(to_numpy(first)[0]) * (1 + 2**-22))


def _out_of_bounds(out, inputs, count: int) -> None:
    from tests.standin.arrays import ndarray
    from tests.standin.memory import MemoryPointer

    beyond = MemoryPointer(out.data.mem, 0)
    beyond.ptr = out.data.ptr + out.nbytes + 40
    ndarray((1,), np.float32, beyond).fill(0)


def _changed_input(out, inputs, count: int) -> None:
    """Changes an input after the last run on random numbers, so that the results of these runs do not show it."""
    if count == RUNS:
        inputs[0].reshape(-1)[:1].fill(0.5)


_BEFORE = {
    "hangs": _hang,
    "crashes": _crash,
    "is killed": _kill,
    "lacks memory": _no_memory,
    "raises": _illegal_address,
}
_AFTER = {
    "a wrong value": _wrong_value,
    "a wrong value in a slice": _wrong_slice,
    "a slightly wrong value": _slightly_wrong,
    "an unwritten value": _unwritten,
    "other bits": _differing_result,
    "a write out of bounds": _out_of_bounds,
    "a changed input": _changed_input,
}
FAULTS = {  # the part of the verdict that names each
    "hangs": "did not answer within",
    "crashes": "ended with SIGSEGV",
    "is killed": "ended with SIGKILL",
    "lacks memory": "MemoryError: Out of memory",
    "raises": "CUDARuntimeError: cudaErrorIllegalAddress",
    "a wrong value": "is 1000",
    "a wrong value in a slice": "is 1000",
    "a slightly wrong value": "for whole numbers",
    "an unwritten value": "is nan",
    "other bits": "has other bits in run 2",
    "a write out of bounds": "wrote 4 bytes out of bounds, 41 bytes after an array of",
    "a changed input": "it changed its inputs",
}
# The faults whose verdict is stored; the others may not occur at the next attempt.
LASTING = {*FAULTS} - {"is killed", "lacks memory"}
