"""Splits a batch over the processor's cores.

NumPy copies and adds on one core, and its BLAS spreads a product over all cores, which must first fetch the operands
from that core's cache. Here each core does all work for its images, with a single-threaded BLAS, so it multiplies what
it copied itself, and copies and additions run in parallel too.

Outside of `fixed_parts` there is at most one part for each thread that NumPy's BLAS may use: OPENBLAS_NUM_THREADS or
`threadpoolctl.threadpool_limits` sets this number. threadpoolctl also limits BLAS to one thread in each part; without
threadpoolctl a batch is one part, and BLAS uses its own threads.

Within `fixed_parts` the number of parts, and so the order of every sum, depends only on the arrays: the bits are the
same on any number of cores.

All measurements were made on two cores. With dozens of cores fewer and larger parts may be better, because the Python
code between products runs on one core at a time.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import numpy as np

from gpuconv.backends.cpu import blas
from gpuconv.system.processor import available_cores

__all__ = ["fixed_parts", "in_parts", "matmul", "sum_in_order", "sum_parts", "threads"]

LEAST_BYTES = 1 << 20  # bytes per part; smaller parts were measured to cost more than they save
FIXED_PARTS = 4  # the largest number of parts within `fixed_parts`

Result = TypeVar("Result")

# Held while BLAS's number of threads, a setting of the process, differs from its usual one.
_blas_lock = threading.Lock()
# Set these only inside a `try` whose `finally` resets them: Ctrl-C may come right after the assignment.
_inside = contextvars.ContextVar("inside a part", default=False)
_fixed_cores = contextvars.ContextVar("cores within fixed_parts", default=0)


def in_parts(
    work: Callable[..., Result],
    *arrays: np.ndarray,
    nbytes: int | None = None,
    prepare: Callable[..., Sequence[object]] | None = None,
) -> list[Result]:
    """Run work(part of each array) for parts along the first axis; returns the results in order. Within a part, nothing
    is split further.

    nbytes: the bytes that determine how many parts are worthwhile; by default those of the arrays. A single image is
    not split, and outside of `fixed_parts` BLAS uses all its threads for it.

    prepare: converts a part to the arguments of `work`. It is called for one part after another, before any work
    begins. In parallel, the calls would take longer, because threads that run Python code wait for each other.
    """
    length = arrays[0].shape[0] if arrays[0].ndim else 1
    fixed = _fixed_cores.get()
    if length == 1 or _inside.get():
        return [work(*(prepare(*arrays) if prepare else arrays))]
    nbytes = sum(x.nbytes for x in arrays) if nbytes is None else nbytes
    limit = nullcontext(fixed) if fixed else _OneCoreBlas()
    with nullcontext() if fixed else _blas_lock, limit as cores:
        try:
            _inside.set(True)
            count = min(FIXED_PARTS if fixed else cores, length, nbytes // LEAST_BYTES) or 1
            bounds = [length * i // count for i in range(count + 1)]
            parts = [[x[first:last] for x in arrays] for first, last in pairwise(bounds)]
            ready = [prepare(*part) for part in parts] if prepare else parts
            return _run(work, ready) if cores > 1 else [work(*part) for part in ready]
        finally:
            _inside.set(False)


def _run(work: Callable[..., Result], parts: Sequence[Sequence[object]]) -> list[Result]:
    """The results of the parts; the first is computed in this thread, each other one in another thread."""
    mine, *others = parts
    running = [_start(work, part) for part in others]
    try:
        result = work(*mine)
    finally:
        for other in running:
            other.exception()  # wait: the threads write into our caller's arrays
    return [result, *(other.result() for other in running)]


@contextmanager
def fixed_parts() -> Iterator[None]:
    """A context in which ops have the same bits on any number of cores, with the same NumPy and BLAS.

    Each call of BLAS uses one thread, if threadpoolctl can set this; otherwise the bits may differ. A thread is within
    the context if it runs in a copy of it (`contextvars.copy_context`). In other threads, ops that may split their work
    into parts wait until the context ends: code within the context that waits for such a thread hangs.
    """
    if _fixed_cores.get() or _inside.get():
        yield
        return
    with _blas_lock, _OneCoreBlas() as cores:
        try:
            _fixed_cores.set(cores)
            yield
        finally:
            _fixed_cores.set(0)


def sum_parts(work: Callable[..., np.ndarray], *arrays: np.ndarray, **options: Any) -> np.ndarray:
    """The sum of what `work` returns for the parts, in their order. options: of `in_parts`."""
    return sum_in_order(in_parts(work, *arrays, **options))


def sum_in_order(results: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of the parts' results, in their order, accumulated in the first."""
    total, *others = results
    for other in others:
        total += other
    return total


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """a @ b for two matrices of one dtype; each core computes a part of the result's longer axis."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
    if out.shape[0] >= out.shape[1]:
        in_parts(lambda a, out: np.matmul(a, b, out=out), a, out)
    else:
        in_parts(lambda b, out: np.matmul(a, b.T, out=out.T), b.T, out.T)
    return out


def threads() -> int:
    """The largest number of parts of a batch outside of `fixed_parts`: the most threads that a loaded BLAS uses; 1
    if unknown."""
    return max((library.num_threads for library in blas.libraries()), default=1)


class _OneCoreBlas:
    """A context in which BLAS uses only the calling thread; `_blas_lock` must be held. Entering returns BLAS's usual
    number of threads, 1 if unknown."""

    # Each library's usual number of threads while BLAS is limited. If Ctrl-C interrupts the methods below, the numbers
    # stay here until the next such context ends, which then restores them.
    usual: ClassVar[list[int]] = []

    def __enter__(self) -> int:
        _OneCoreBlas.usual = _OneCoreBlas.usual or [library.num_threads for library in blas.libraries()]
        for library in blas.libraries():
            library.set_num_threads(1)
        return max(_OneCoreBlas.usual, default=1)

    def __exit__(self, *_: object) -> None:
        for library, number in zip(blas.libraries(), _OneCoreBlas.usual):
            library.set_num_threads(number)
        _OneCoreBlas.usual = []


def _start(work: Callable[..., Result], part: Sequence[object]) -> Future[Result]:
    """Run a function in another thread, in a copy of this thread's context, which includes np.errstate."""
    return _thread_pool().submit(contextvars.copy_context().run, work, *part)


@functools.cache
def _thread_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_cores(), thread_name_prefix="gpuconv")


def _after_fork() -> None:
    """In a forked child: make a new lock and new threads, because the parent's thread that holds the lock does not
    exist here."""
    global _blas_lock
    _blas_lock = threading.Lock()
    _thread_pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
