"""Loads and launches the kernels of a .cu file that was compiled for the emulated device."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.cuda.emulator import cxx, watch
from gpuconv.backends.cuda.emulator.errors import EmulatorError, restore_after_fault
from gpuconv.backends.cuda.emulator.runtime import LaunchRequest, Region, runtime
from gpuconv.backends.cuda.emulator.settings import settings
from gpuconv.backends.cuda.emulator.source_lines import with_lines


class EmulatedLibrary:
    """The kernels of one .cu file, compiled for the emulated device."""

    def __init__(self, name: str, text: str, defines: Mapping[str, str], sanitize: str) -> None:
        if sanitize == "address" and not hasattr(ctypes.CDLL(None), "__asan_init"):
            raise EmulatorError(
                'sanitize="address" needs a process that has AddressSanitizer loaded: start Python with '
                f"LD_PRELOAD={cxx.sanitizer_runtime()} ASAN_OPTIONS={cxx.ASAN_OPTIONS}"
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
        """Run a kernel to its end. entry: its address, from `entry`. arguments: contiguous arrays, NumPy scalars, or
        None for a null pointer; names: those of the parameters. shared: bytes of dynamic shared memory. cluster: the
        number of blocks in a cluster; the grid's x is a multiple of it. Raises EmulatorError for a fault."""
        chosen = settings()
        if watch.active and not self.checked:
            raise EmulatorError(f'a watch needs sanitize="checked", received "{chosen.sanitize}"')
        arrays = [i for i, argument in enumerate(arguments) if isinstance(argument, np.ndarray)]
        values = [_parameter_value(argument) for argument in arguments]
        table = np.array([value.ctypes.data for value in values], np.uintp)
        regions = (Region * len(arrays))(
            *(Region(f"argument '{names[i]}'".encode(), arguments[i].ctypes.data, arguments[i].nbytes) for i in arrays)
        )
        request = LaunchRequest(
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
        if watch.active:
            watch.active.aim(arguments, names)
        failed = runtime().gpuconv_launch(request, message, len(message))
        if watch.active:
            watch.active.collect(self.path)
        if failed:
            restore_after_fault()
            raise EmulatorError(with_lines(message.value.decode(errors="replace"), self.path))


def _parameter_value(argument: object) -> np.ndarray:
    """What the kernel receives for an argument: an array's address, 0 for a null pointer, or the scalar itself."""
    if isinstance(argument, np.ndarray):
        return np.array(argument.ctypes.data)
    return np.array(0 if argument is None else argument)
