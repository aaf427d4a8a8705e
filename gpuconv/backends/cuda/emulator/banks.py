"""Counts the bank conflicts of kernels (banks.h)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

from gpuconv.backends.cuda.emulator.runtime import runtime
from gpuconv.backends.cuda.emulator.settings import configure

_counting = False


@contextlib.contextmanager
def bank_conflicts() -> Iterator[Callable[[str], tuple[int, int]]]:
    """A context that counts, for every kernel launched in it, the accesses of its warps to shared memory and their bank
    conflicts.

    Yields a function from a kernel's name to (accesses, conflicts). Kernels run checked. banks.h defines an access, and
    says where the count is exact. ::

        with emulator.bank_conflicts() as of:
            ops.conv2d(x, w)
        accesses, conflicts = of("conv2d_fprop_mma")

    Raises RuntimeError inside another such context.
    """
    global _counting
    if _counting:
        raise RuntimeError("bank conflicts are counted already; leave the outer context first")
    library = runtime()

    def of(kernel: str) -> tuple[int, int]:
        counts = (ctypes.c_uint64 * 2)()
        library.gpuconv_bank_counts(kernel.encode(), counts)
        return counts[0], counts[1]

    _counting = True
    library.gpuconv_count_banks(1)
    try:
        with configure(sanitize="checked"):
            yield of
    finally:
        _counting = False
        library.gpuconv_count_banks(0)
