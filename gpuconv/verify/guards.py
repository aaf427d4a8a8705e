"""Allocates GPU memory between guard zones, to detect writes past an array and values left unwritten.

Every allocation is filled with NaNs and lies between two zones filled with a known byte. The emulated device checks
each access itself and needs no guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import cupy

ZONE = 1 << 16  # bytes on each side: more than a row of the largest tile; a multiple of CuPy's alignment
_CANARY, _NAN = 0xA5, 0xFF  # the byte of guard zones, and a byte that makes NaNs in every float dtype


class Guards:
    """Replaces CuPy's allocator, which serves all GPUs of a process, from the creation of this object on. A process
    makes one object: a second one would take over the allocator, and the first would see no further allocations."""

    def __init__(self) -> None:
        import cupy

        self._cupy, self._malloc = cupy, cupy.get_default_memory_pool().malloc
        self._blocks: list[tuple[cupy.cuda.MemoryPointer, int]] = []
        cupy.cuda.set_allocator(self._guarded)

    def _guarded(self, size: int) -> cupy.cuda.MemoryPointer:
        """Memory of `size` bytes, filled with NaN, between two guard zones."""
        block = self._malloc(size + 2 * ZONE)
        block.memset_async(_CANARY, size + 2 * ZONE)
        inside = self._cupy.cuda.MemoryPointer(block.mem, ZONE)
        inside.memset_async(_NAN, size)
        self._blocks.append((block, size))
        return inside

    def damage(self) -> str:
        """Describes the damage to the first guard zone, in the order of allocation, that was written to; "" if none
        was."""
        for block, size in self._blocks:
            for side, offset in (("before", 0), ("after", ZONE + size)):
                zone = self._cupy.ndarray((ZONE,), "uint8", self._cupy.cuda.MemoryPointer(block.mem, offset)).get()
                if (changed := (zone != _CANARY).nonzero()[0]).size:
                    distance = ZONE - changed[-1] if side == "before" else changed[0] + 1
                    return f"wrote {changed.size} bytes out of bounds, {distance} bytes {side} an array of {size} bytes"
        return ""

    def mark(self) -> int:
        """The number of allocations that are held, for `release`."""
        return len(self._blocks)

    def release(self, mark: int = 0) -> None:
        """Allow the memory allocated since `mark` to be reused. Until then it is held, so that `damage` can read its
        guard zones."""
        del self._blocks[mark:]


class NoGuards:
    """Stands in for `Guards` on the emulated device, which checks every access itself."""

    def damage(self) -> str:
        return ""

    def mark(self) -> int:
        return 0

    def release(self, mark: int = 0) -> None:
        pass
