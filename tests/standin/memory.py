"""Device memory: blocks of host memory that belong to a device, and pools that hand them out again."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuconv.integers import ceil_div
from tests.standin.machine import current
from tests.standin.streams import get_current_stream

_UNIT = 512  # bytes: pools round sizes up to a multiple of it, and every block is aligned to it
POISON = 0xFF  # NaN in every float


class Memory:
    """Memory as from cudaMalloc. Deleting the object acts like cudaFree, which waits for the device."""

    def __init__(self, size: int) -> None:
        self._machine = current()
        self.size, self.device_id = size, self._machine.device
        self._machine.allocated += size
        self._bytes = np.full(size + _UNIT, POISON, np.uint8)
        self.ptr = self._bytes.ctypes.data + -self._bytes.ctypes.data % _UNIT

    def __del__(self, suppress: Any = contextlib.suppress) -> None:  # at the interpreter's end, contextlib is None
        self._machine.allocated -= self.size
        memory, within_work = self._bytes, getattr(self._machine.thread, "runs", None) is not None
        with suppress(Exception):  # when the interpreter ends
            for queue in self._machine.queues:
                if queue.device != self.device_id or queue.captured is not None:
                    continue
                if within_work:  # garbage collected during a kernel: the memory lives until the queued work is done
                    queue.push(lambda: memory)
                else:
                    queue.run(queue.end)


class MemoryPointer:
    def __init__(self, mem, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    def memset_async(self, value: int, size: int, stream=None) -> None:
        address = self.ptr
        (stream or get_current_stream()).queue.push(lambda: _set(address, value, size))

    def copy_from_device_async(self, source: MemoryPointer, size: int, stream=None) -> None:
        target, from_ = self.ptr, source.ptr
        (stream or get_current_stream()).queue.push(lambda: _copy(target, from_, size), size / current().copy_rate)


def _set(address: int, value: int, size: int) -> None:
    ctypes.memset(address, value, size)


def _copy(to: int, from_: int, size: int) -> None:
    ctypes.memmove(to, from_, size)


class _Block:
    """A pool's block in use. When this object is deleted, the block is free again, even if queued work uses it."""

    def __init__(self, pool: MemoryPool, memory, home) -> None:
        self._pool, self._memory, self._home = pool, memory, home
        self.ptr, self.device_id, self.size = memory.ptr, memory.device_id, memory.size

    def __del__(self) -> None:
        self._pool._free.setdefault(self._home, []).append(self._memory)


class MemoryPool:
    """Free blocks by device, stream and size. A stream that requests a size again gets a free block that it
    allocated before."""

    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None) -> None:
        self._allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self._free: dict[Any, list[Any]] = {}

    def malloc(self, size: int) -> MemoryPointer:
        size = max(1, ceil_div(size, _UNIT)) * _UNIT
        stream = get_current_stream()
        home = current().device, stream.ptr, size
        free = self._free.get(home)
        if not free:
            return MemoryPointer(_Block(self, self._allocator(size).mem, home), 0)
        block = MemoryPointer(_Block(self, free.pop(), home), 0)
        if not stream.is_capturing():
            block.memset_async(POISON, size, stream)
        return block

    def free_all_blocks(self, stream=None) -> None:
        """Free the unused blocks of the current device."""
        for home in [home for home in self._free if home[0] == current().device]:
            del self._free[home]


def get_default_memory_pool() -> MemoryPool:
    machine = current()
    if not hasattr(machine, "pool"):
        machine.pool = MemoryPool()
    return machine.pool


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer]) -> Iterator[None]:
    thread = current().thread
    before = getattr(thread, "allocator", None)
    thread.allocator = allocator
    try:
        yield
    finally:
        thread.allocator = before


def set_allocator(allocator: Callable[[int], MemoryPointer] | None) -> None:
    current().allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))


def allocate(size: int) -> MemoryPointer:
    """Memory from this thread's allocator, the machine's, or the default pool."""
    machine = current()
    chosen = getattr(machine.thread, "allocator", None) or getattr(machine, "allocator", None)
    return (chosen or get_default_memory_pool().malloc)(size)
