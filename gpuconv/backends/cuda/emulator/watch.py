"""Which threads write certain bytes of memory, and what one of these threads reads and writes (watch.h)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuconv.backends.cuda.emulator.array import EmulatedArray
from gpuconv.backends.cuda.emulator.runtime import runtime
from gpuconv.backends.cuda.emulator.settings import configure
from gpuconv.backends.cuda.emulator.source_lines import with_lines


@dataclass(frozen=True)
class Writer:
    """A thread that wrote watched bytes. block, thread: its indices. warp: the number of its warp in the block. source:
    the line of the .cu file, such as "conv2d_fprop.cu:120"."""

    kernel: str
    block: tuple[int, ...]
    thread: tuple[int, ...]
    warp: int
    source: str


@dataclass(frozen=True)
class Touched:
    """A buffer or shared variable that a thread used. first, last: the offsets of the first and the last accessed byte.
    read, written: the bytes of all accesses; a byte counts at each access."""

    name: str
    first: int
    last: int
    read: int
    written: int


@dataclass(frozen=True)
class ArgumentBytes:
    """Bytes of the array that a launch takes as an argument. name: the kernel's parameter. first: the offset of the
    first byte. size: their number."""

    name: str
    first: int
    size: int


class _Watch:
    """An active watch and what it has seen."""

    def __init__(self, memory: EmulatedArray | ArgumentBytes, writer: Writer | None) -> None:
        self.memory = memory
        self.seen: list[Writer | Touched] = []
        self.thread = ""  # as the runtime names it; see Watch::thread in watch.h
        if writer:
            indices = [f"({', '.join(map(str, index))})" for index in (writer.block, writer.thread)]
            self.thread = "\t".join([writer.kernel, *indices, str(writer.warp)])

    def aim(self, arguments: Sequence[object], names: Sequence[str]) -> None:
        """Tell the runtime which bytes to watch in a launch with these arguments."""
        memory = self.memory
        if isinstance(memory, EmulatedArray):
            base, size = memory.__array_interface__["data"][0], memory.nbytes
        else:
            array = dict(zip(names, arguments)).get(memory.name)
            base = array.ctypes.data + memory.first if isinstance(array, np.ndarray) else 0  # no array is at address 0
            size = memory.size
        runtime().gpuconv_watch(base, size, self.thread.encode())

    def collect(self, library: Path) -> None:
        """Add what the launch that has just ended wrote and touched. library: the kernel's."""
        for line in runtime().gpuconv_watched().decode(errors="replace").splitlines():
            what, *words = line.split("\t")
            if what == "touched" and len(words) == 5:
                self.seen.append(Touched(words[0], *map(int, words[1:])))
            elif what == "wrote" and len(words) == 5:
                block, thread = (tuple(map(int, re.findall(r"\d+", word))) for word in words[1:3])
                self.seen.append(Writer(words[0], block, thread, int(words[3]), with_lines(words[4], library)))


active: _Watch | None = None  # the watch of this process


@contextlib.contextmanager
def watch_writes(
    memory: EmulatedArray | ArgumentBytes, writer: Writer | None = None
) -> Iterator[list[Writer | Touched]]:
    """A context in which kernels run checked, and every write to the bytes of `memory` is added to the yielded list, in
    order.

    memory: a contiguous view of an emulated array; or bytes of an argument, which are watched in each launch of a
    kernel that has this argument. writer: a thread from an earlier watch. With it, the writes of each launch are
    followed in the list by a `Touched` for each buffer and shared variable that this thread uses. A watch does not see
    bulk stores, what bulk loads write, the operands that wgmma reads, or operations on mbarriers.

    Raises TypeError for other memory, ValueError for a view that is not contiguous, RuntimeError inside another watch;
    a kernel that is launched unchecked in the context raises EmulatorError.
    """
    global active
    if not isinstance(memory, (EmulatedArray, ArgumentBytes)):
        raise TypeError(
            f"a watch takes an array on the emulated device or ArgumentBytes, received {type(memory).__name__}"
        )
    if isinstance(memory, EmulatedArray) and not memory.flags.forc:
        raise ValueError(
            f"a watch takes a contiguous view, received shape {memory.shape} with strides {memory.strides} in bytes"
        )
    if active:
        raise RuntimeError("the emulated device is watched already; watch one view at a time")
    active = _Watch(memory, writer)
    try:
        with configure(sanitize="checked"):
            yield active.seen
    finally:
        active = None
        runtime().gpuconv_watch(None, 0, b"")
