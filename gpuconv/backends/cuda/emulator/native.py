"""The emulator's compiled part: its runtime library, and loading and launching kernels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.backends.cuda.emulator import cxx
from gpuconv.backends.cuda.emulator.errors import EmulatorError
from gpuconv.backends.cuda.emulator.settings import configure, settings


class _Region(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


class _Launch(ctypes.Structure):  # `Launch` of launch.h
    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("cluster", ctypes.c_uint),
        ("shared_bytes", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("workers", ctypes.c_int),
        ("checked", ctypes.c_int),
        ("region_count", ctypes.c_int),
        ("regions", ctypes.POINTER(_Region)),
    ]


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime library, compiled on first use. Raises HostCompilerError if that fails."""
    path = cxx.compile_library("runtime", '#include "runtime.h"\n', once=True)  # compiling takes seconds
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # so that kernels find the runtime's functions
    library.gpuconv_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.gpuconv_allocate.restype = ctypes.c_void_p
    library.gpuconv_release.argtypes = [ctypes.c_void_p]
    library.gpuconv_release.restype = None
    library.gpuconv_launch.argtypes = [ctypes.POINTER(_Launch), ctypes.c_char_p, ctypes.c_size_t]
    library.gpuconv_launch.restype = ctypes.c_int
    library.gpuconv_count_banks.argtypes = [ctypes.c_int]
    library.gpuconv_count_banks.restype = None
    library.gpuconv_bank_counts.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)]
    library.gpuconv_bank_counts.restype = None
    library.gpuconv_watch.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    library.gpuconv_watch.restype = None
    library.gpuconv_watched.argtypes = []
    library.gpuconv_watched.restype = ctypes.c_char_p
    return library


@contextlib.contextmanager
def bank_conflicts() -> Iterator[Callable[[str], tuple[int, int]]]:
    """A context that counts, for every kernel launched in it, the accesses of its warps to shared memory and their bank
    conflicts.

    Yields a function from a kernel's name to (accesses, conflicts). Kernels run checked. banks.h defines an access, and
    says where the count is exact. ::

        with emulator.bank_conflicts() as of:
            ops.conv2d(x, w)
        accesses, conflicts = of("conv2d_fprop_mma")
    """
    library = runtime()

    def of(kernel: str) -> tuple[int, int]:
        counts = (ctypes.c_uint64 * 2)()
        library.gpuconv_bank_counts(kernel.encode(), counts)
        return counts[0], counts[1]

    library.gpuconv_count_banks(1)
    try:
        with configure(sanitize="checked"):
            yield of
    finally:
        library.gpuconv_count_banks(0)


@dataclass(frozen=True)
class Writer:
    """A thread that wrote watched bytes. source: the line of the .cu file, such as "conv2d_fprop.cu:120"."""

    kernel: str
    block: tuple[int, ...]
    thread: tuple[int, ...]
    warp: int
    source: str


@dataclass(frozen=True)
class Touched:
    """A buffer or shared variable that a thread used. first, last: the offsets of the first and the last accessed byte.
    read, written: the bytes of all accesses; a byte counts each time."""

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


_seen: list[Writer | Touched] | None = None  # the list of the active watch
_aim: Callable[[Sequence[Any], Sequence[str]], None] | None = None  # sets the watch for a launch with these arguments


@contextlib.contextmanager
def watch_writes(memory: np.ndarray | ArgumentBytes, writer: Writer | None = None) -> Iterator[list[Writer | Touched]]:
    """A context in which kernels run checked, and every write to the bytes of `memory` is added to the yielded list, in
    order. memory: a contiguous view of an emulated array, or bytes of an argument, in each launch of a kernel that has
    it. writer: a thread from an earlier watch; the list then also has a `Touched` for each buffer and shared variable
    that this thread uses, after the writes of the launch. Raises RuntimeError inside another watch; a kernel that is
    launched unchecked in the context raises EmulatorError."""
    global _seen, _aim
    if _seen is not None:
        raise RuntimeError("the emulated device is watched already; watch one view at a time")
    thread = ""
    if writer:
        indices = [f"({', '.join(map(str, index))})" for index in (writer.block, writer.thread)]
        thread = "\t".join([writer.kernel, *indices, str(writer.warp)])

    def aim(arguments: Sequence[object], names: Sequence[str]) -> None:
        if isinstance(memory, np.ndarray):
            base, size = memory.__array_interface__["data"][0], memory.nbytes
        else:
            array = dict(zip(names, arguments)).get(memory.name)
            base = array.ctypes.data + memory.first if isinstance(array, np.ndarray) else 0  # no array is at address 0
            size = memory.size
        runtime().gpuconv_watch(base, size, thread.encode())

    seen: list[Writer | Touched] = []
    _seen, _aim = seen, aim
    try:
        with configure(sanitize="checked"):
            yield seen
    finally:
        _seen = _aim = None
        runtime().gpuconv_watch(None, 0, b"")


def _report(library: Path) -> Iterator[Writer | Touched]:
    """The writers and touched buffers of the launch that has just ended. library: the kernel's, which has the lines."""
    for line in runtime().gpuconv_watched().decode(errors="replace").splitlines():
        what, *words = line.split("\t")
        if what == "touched" and len(words) == 5:
            yield Touched(words[0], *map(int, words[1:]))
        elif what == "wrote" and len(words) == 5:
            block, thread = (tuple(map(int, re.findall(r"\d+", word))) for word in words[1:3])
            yield Writer(words[0], block, thread, int(words[3]), _with_lines(words[4], library))


class EmulatedLibrary:
    """The kernels of one .cu file, compiled for the emulated device."""

    def __init__(self, name: str, text: str, defines: Mapping[str, str], sanitize: str) -> None:
        if sanitize == "address" and not hasattr(ctypes.CDLL(None), "__asan_init"):
            raise EmulatorError(
                'sanitize="address" needs a process that has AddressSanitizer loaded: start Python with '
                f"LD_PRELOAD={cxx.sanitizer_runtime()} ASAN_OPTIONS=detect_leaks=0"
            )
        runtime()
        self.path = cxx.compile_library(name, text, defines, sanitize)
        self.library = ctypes.CDLL(str(self.path))
        self.checked = sanitize == "checked"

    def entry(self, kernel: str) -> int:
        """The address through which a kernel is called."""
        return ctypes.cast(getattr(self.library, f"{kernel}__entry"), ctypes.c_void_p).value or 0

    def parameter_sizes(self, kernel: str, count: int) -> list[int]:
        """The size of each of a kernel's parameters, in bytes."""
        sizes = (ctypes.c_size_t * count)()
        getattr(self.library, f"{kernel}__sizes")(sizes)
        return list(sizes)

    def launch(
        self,
        kernel: str,
        entry: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        names: Sequence[str],
        shared: int,
        cluster: int,
    ) -> None:
        """Run a kernel to its end. arguments: contiguous arrays, NumPy scalars, or None for a null pointer. cluster:
        the number of blocks in a cluster; the grid's x is a multiple of it. Raises EmulatorError for a fault."""
        chosen = settings()
        if _seen is not None and not self.checked:
            raise EmulatorError(f'a watch needs sanitize="checked", received "{chosen.sanitize}"')
        arrays = [i for i, argument in enumerate(arguments) if isinstance(argument, np.ndarray)]
        values = [_parameter_value(argument) for argument in arguments]
        table = np.array([value.ctypes.data for value in values], np.uintp)
        regions = (_Region * len(arrays))(
            *(_Region(f"argument '{names[i]}'".encode(), arguments[i].ctypes.data, arguments[i].nbytes) for i in arrays)
        )
        request = _Launch(
            entry,
            table.ctypes.data,
            kernel.encode(),
            grid,
            block,
            cluster,
            shared,
            chosen.seed,
            chosen.workers,
            self.checked,
            len(arrays),
            regions,
        )
        message = ctypes.create_string_buffer(1 << 16)
        if _aim is not None:
            _aim(arguments, names)
        failed = runtime().gpuconv_launch(request, message, len(message))
        if _seen is not None:
            _seen.extend(_report(self.path))
        if failed:
            raise EmulatorError(_with_lines(message.value.decode(errors="replace"), self.path))


def _parameter_value(argument: object) -> np.ndarray:
    """What the kernel receives for an argument: an array's address, 0 for a null pointer, or the scalar itself."""
    if isinstance(argument, np.ndarray):
        return np.array(argument.ctypes.data)
    return np.array(0 if argument is None else argument)


def _with_lines(message: str, library: Path) -> str:
    """Replace each "{pc ...}", an address in the library, with its file and line."""
    return re.sub(r"\{pc ([0-9a-f]+)\}", lambda match: _line(match[1], library), message)


@functools.lru_cache(maxsize=4096)
def _line(pc: str, library: Path) -> str:
    """The file and line of an address in a library, or the address if there is no addr2line."""
    address = hex(int(pc, 16) - 1)  # inside the call instruction: the given address follows it
    tool = shutil.which("addr2line")
    if tool is None:
        return address
    command = [tool, "-e", str(library), address]
    output = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    return Path(output.split(" (")[0].strip()).name or address
