"""Counters by which a launch's last block to finish recognizes that it is the last."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.adapter import CudaDevice
from gpuconv.backends.cuda.runtime.replaced_files import when_replaced
from gpuconv.types import Array


def block_counters(like: Array) -> Array:
    """(2,) uint32, zero. Each launch leaves them at zero, so a thread's launches on one stream share them. Threads do
    not share them: each may have its own default stream, and CUDA's handle of all these streams is the same number.

    A faulty kernel may leave other values. On the emulated device the calling thread's counters are set to zero after
    each fault, and when kernel files are replaced."""
    if isinstance(like, np.ndarray):
        return _of_thread[threading.get_ident()]
    stream = sys.modules["cupy"].cuda.get_current_stream()
    return _of_stream(like.device.id, stream.ptr, threading.get_ident())


class _Emulated(dict[int, np.ndarray]):
    """The counters on the emulated device, by thread."""

    def __missing__(self, thread: int) -> np.ndarray:
        return self.setdefault(thread, emulator.zeros((2,), np.uint32))


_of_thread = _Emulated()


def _reset() -> None:
    """Set this thread's counters on the emulated device to zero, in place, because a captured step may hold them."""
    if (counters := _of_thread.get(threading.get_ident())) is not None:
        ctypes.memset(counters.ctypes.data, 0, counters.nbytes)


emulator.after_fault(_reset)
when_replaced(_reset)


@functools.cache
def _of_stream(device: int, stream: int, thread: int) -> Array:
    return CudaDevice(device).constant(np.zeros(2, np.uint32))
