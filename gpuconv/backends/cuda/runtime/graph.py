"""Captures device work once to replay it: CUDA graphs, and their equivalent on the emulated device.

    recorder = backends.recorder(device)
    recorder.prepare(work)              # runs it, which loads every kernel and makes every array that stays
    replay = recorder.capture(work)     # records the launches without running them
    replay()                            # runs them, on the same memory each time

The work must read its inputs from device memory: a number that Python passes to a launch is the same in every replay.
The work must be gpuconv's own: another library may launch on another stream, or wait for one.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuconv.backends.cuda import emulator

if TYPE_CHECKING:
    import cupy

Work = Callable[[], None]


class EmulatedRecorder:
    """Records the launches and runs them again. While recording, the host must not access an emulated array, because a
    capture on a GPU would refuse it. The launches keep their arrays alive."""

    def prepare(self, work: Work) -> None:
        work()

    def capture(self, work: Work) -> Work:
        with emulator.capture_launches() as launches:
            work()

        def replay() -> None:
            for launch in launches:
                launch()

        return replay

    def release(self) -> None:
        pass


@functools.cache
def _capture_stream(index: int, thread: int) -> cupy.cuda.Stream:
    """One stream for all captures of a thread on a device, because CuPy keeps freed memory for each stream."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


@functools.cache
def capture_lock(index: int) -> threading.RLock:
    """A lock held while a thread captures on a device, or synchronizes the device, which would invalidate the captures
    of other threads."""
    return threading.RLock()


class CudaRecorder:
    """CUDA graphs with a private memory pool. They are captured on a separate stream, because the default stream cannot
    be captured, and launched on the caller's current stream, after its earlier work.

    A graph keeps no array alive, and its kernels write to the addresses of the capture. So captured work allocates from
    a private pool, whose memory is freed only by `release`.
    """

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy, self._device, self._capture_lock = cupy, cupy.cuda.Device(index), capture_lock(index)
        with self._device:
            self._stream = _capture_stream(index, threading.get_ident())
        self.release()

    def prepare(self, work: Work) -> None:
        """Run the work on the stream on which it will be captured, because some scratch memory belongs to a stream.
        Waits for the device before the work, and for the work afterwards."""
        with self._device:
            with self._capture_lock:
                self._device.synchronize()
            with self._stream:
                work()
                self._stream.synchronize()

    def capture(self, work: Work) -> Work:
        """Capture the launches that `work` makes on the current stream.

        Raises MemoryError if there is too little memory, and any other error with which CUDA refuses the capture; then
        nothing was launched.
        """
        cupy = self._cupy
        with self._device:
            cupy.get_default_memory_pool().free_all_blocks()  # frees the memory that uncaptured work has released
            with self._capture_lock, self._stream, cupy.cuda.using_allocator(self._pool.malloc):
                self._stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with contextlib.suppress(Exception):  # ending a failed capture fails too; the first error counts
                        self._stream.end_capture()
                    raise
                graph = self._stream.end_capture()

        def replay() -> None:
            with self._device:
                graph.launch(cupy.cuda.get_current_stream())

        return replay

    def release(self) -> None:
        """Free the memory; no graph may be launched afterwards."""
        with self._device:
            self._cupy.get_default_memory_pool().free_all_blocks(self._stream)  # the memory that `prepare` released
        self._kept: list[object] = []
        self._pool = self._cupy.cuda.MemoryPool(self._reserve)

    def _reserve(self, size: int) -> cupy.cuda.MemoryPointer:
        """Memory for the pool, also referenced here to keep it alive: when a pool runs out of memory, it frees its
        unused blocks, although captured kernels still use their addresses."""
        cupy = self._cupy
        try:
            memory = cupy.cuda.Memory(size)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(
                f"a CUDA graph needs {size} more bytes of device memory, and fewer are free ({error})"
            ) from error
        self._kept.append(memory)
        return cupy.cuda.MemoryPointer(memory, 0)
