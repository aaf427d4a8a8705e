"""Kernels: compiling one only stores its text and macros; a launch compiles and runs it in gpuconv's emulator."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.standin.arrays import array_at, ndarray
from tests.standin.errors import CUDADriverError
from tests.standin.machine import SHARED_MEMORY, current
from tests.standin.streams import get_current_stream

_DEFAULT_SHARED_MEMORY = 48 * 1024  # bytes that a block may have without opting in
_cubins: dict[str, tuple[str, str, dict[str, str], str]] = {}


def compile_cubin(name: str, text: str, defines: Mapping[str, str], arch: str):
    """Replaces compile_cubin and find_cubin of gpuconv.backends.cuda.runtime.nvrtc.

    The kernels' resources are made up."""
    from gpuconv.backends.cuda.runtime import nvrtc, source

    resources = dict.fromkeys(source.signatures(text, defines), nvrtc.Resources(32, 0, 0, 0, 0))
    path = f"/standin/{name}-{arch}-{len(_cubins)}.cubin"
    _cubins[path] = (name, text, dict(defines), arch)
    digest = nvrtc.digest(repr((text, sorted(defines.items()), arch)).encode())
    return types.SimpleNamespace(path=path, resources=resources, digest=digest)


@functools.cache
def _library(name: str, text: str, defines: tuple[tuple[str, str], ...]) -> tuple[Any, Any]:
    from gpuconv.backends.cuda import emulator
    from gpuconv.backends.cuda.emulator.library import EmulatedLibrary
    from gpuconv.backends.cuda.runtime import source

    signatures = source.signatures(text, dict(defines))
    host = source.for_host(text, list(signatures))
    return EmulatedLibrary(name, host, dict(defines), emulator.settings().sanitize), signatures


class RawModule:
    """A cubin; CuPy loads it on the device that is current at the first use of one of its kernels."""

    def __init__(self, *, path: str) -> None:
        self._path = path

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self._path, name)


class RawKernel:
    def __init__(self, path: str, name: str) -> None:
        self._path, self.name = path, name
        self._allowed: dict[int, int] = {}
        self._load()

    def _load(self) -> tuple[str, str, dict[str, str]]:
        """The name, text and macros of the file, if its cubin runs on the current device."""
        name, text, defines, arch = _cubins[self._path]
        capability, built_for = current().gpus[current().device], "".join(c for c in arch if c.isdigit())
        if built_for[:-1] != capability[:-1] or int(built_for[-1]) > int(capability[-1]):
            raise CUDADriverError(f"CUDA_ERROR_NO_BINARY_FOR_GPU: {arch} on compute capability {capability}")
        return name, text, defines

    @property
    def shared_size_bytes(self) -> int:
        self._load()
        return 0

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._allowed.get(current().device, _DEFAULT_SHARED_MEMORY)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._load()
        if size > SHARED_MEMORY[current().gpus[current().device]]:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._allowed[current().device] = size

    def __call__(self, grid, block, args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        """Packs addresses and numbers, as CuPy does, and keeps no array alive."""
        name, text, defines = self._load()
        library, signatures = _library(name, text, tuple(defines.items()))
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        cluster = signatures[self.name].cluster
        if grid[0] % cluster:
            raise CUDADriverError("CUDA_ERROR_INVALID_CLUSTER_SIZE: cluster misconfiguration")
        machine, parameters = current(), signatures[self.name].parameters
        machine.launches.append((self.name, machine.device))
        packed = [_packed(argument) for argument in args]

        def launch() -> None:
            values = [_unpacked(argument, parameter.pointer) for argument, parameter in zip(packed, parameters)]
            names = [parameter.name for parameter in parameters]
            entry = library.entry(self.name)
            library.launch(self.name, entry, tuple(grid), tuple(block), values, names, shared_mem, cluster)

        get_current_stream().queue.push(launch, machine.kernel_seconds)


def _unpacked(argument, pointer: bool):
    if isinstance(argument, tuple):
        return array_at(*argument)
    return None if pointer else argument  # a pointer parameter receives an array or None, which is the null pointer


def _packed(argument):
    if isinstance(argument, ndarray):
        return argument.data.ptr, (argument.size,), (argument.dtype.itemsize,), argument.dtype
    if isinstance(argument, np.ndarray) and argument.size != 1:
        raise TypeError("You are trying to pass a numpy.ndarray of shape other than () to a kernel")
    return argument
