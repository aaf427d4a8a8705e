"""Capturing work of the device once, to launch it again as a whole: CUDA graphs, and their like on the emulated device.

    recorder = backends.recorder(device)
    with recorder.queue():
        work()                              # loads every kernel, makes every array that stays
        replay = recorder.capture(work)     # notes the launches down, runs none
        replay()                            # runs them again, on the same memory

What the work reads must come from device memory: a number that Python hands to a launch is that number in every replay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from gpuconv.backends.cuda import emulator

Work = Callable[[], None]


class EmulatedRecorder:
    """Notes the launches down and runs them again. While they are noted down the host may touch no emulated array, as a
    capture on a GPU would refuse it. The launches keep the arrays alive that they work on."""

    def queue(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def capture(self, work: Work) -> Work:
        with emulator.recorded() as launches:
            work()

        def replay() -> None:
            for launch in launches:
                launch()

        return replay

    def release(self) -> None:
        pass


class CudaRecorder:
    """CUDA graphs over a memory pool that only they use, on a stream of their own.

    A graph keeps no array alive, and its kernels write wherever they wrote when it was captured. So what captured work
    allocates comes from a private pool, and that pool's memory is given back by `release` alone.
    """

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(index)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self.release()

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        """Within this context the stream is the current one: a capture needs another one than CUDA's default. What was
        launched before is done before; all of it is done at the end."""
        with self._device:
            self._device.synchronize()
            with self._stream:
                try:
                    yield
                finally:
                    self._stream.synchronize()

    def capture(self, work: Work) -> Work:
        """Capture the launches that `work` makes on the current stream, which must not be CUDA's default one.

        Raises MemoryError where the memory does not suffice, and whatever else the capture is refused with; then
        nothing was launched.
        """
        cupy = self._cupy
        with self._device:
            cupy.get_default_memory_pool().free_all_blocks()  # what uncaptured work let go of makes room
            stream = cupy.cuda.get_current_stream()
            with cupy.cuda.using_allocator(self._pool.malloc):
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with contextlib.suppress(Exception):  # a capture that failed cannot be ended well; its cause counts
                        stream.end_capture()
                    raise
                graph = stream.end_capture()
        return graph.launch

    def release(self) -> None:
        """Give the memory back; no graph may be launched from here on."""
        self._kept: list[Any] = []
        self._pool = self._cupy.cuda.MemoryPool(self._reserve)

    def _reserve(self, size: int) -> Any:
        """Memory for the pool, which is kept here too: a pool that runs out frees the blocks that are free at the
        moment, and the kernels of an earlier capture, or of this one, work on those."""
        cupy = self._cupy
        try:
            memory = cupy.cuda.Memory(size)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(f"no {size} bytes more of device memory for a CUDA graph ({error})") from error
        self._kept.append(memory)
        return cupy.cuda.MemoryPointer(memory, 0)
