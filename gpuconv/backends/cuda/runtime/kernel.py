"""Loading a .cu file and launching its kernels: the one way from an op to a kernel, on a GPU and emulated.

    add = load("add.cu", {"DTYPE": "float32"}).kernel("add_forward")
    add(grid, block, y, a, b, n)

The kind of the arrays chooses the device. Every launch is checked against the signature in the source: the number of
arguments, each array's dtype, contiguity, alignment and device, each scalar's range. Scalars are cast to the exact C
type, None is a null pointer, and a launch of no blocks is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.queue import submit
from gpuconv.backends.cuda.runtime import source
from gpuconv.backends.cuda.runtime.device_array import address
from gpuconv.devices import device_of
from gpuconv.dtypes import as_numeric
from gpuconv.names import lookup

Extent = int | tuple[int, ...]

_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)
_MAX_THREADS = 1024
_MAX_SHARED = 232448  # bytes; on a device that has less, the launch raises CUDA's own error
_SHARED_WITHOUT_LEAVE = 48 * 1024  # bytes that need no opt-in, a kernel's static shared memory included


class Module:
    """One .cu file under one set of macros. Nothing is compiled before a kernel is launched."""

    def __init__(self, path: Path, defines: Mapping[str, str]) -> None:
        self.path = path
        self.defines = MappingProxyType(dict(defines))
        self.text = source.flatten(path)
        self.signatures = source.signatures(self.text, self.defines)
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """A kernel by its name. Raises ValueError, naming the nearest one, where the file has none of that name."""
        if name not in self._kernels:
            self._kernels[name] = Kernel(self, lookup(f"kernel of {self.path.name}", name, self.signatures))
        return self._kernels[name]

    @functools.cache  # noqa: B019 - modules live as long as the process
    def _emulated(self, sanitize: str) -> Any:
        from gpuconv.backends.cuda.emulator.native import EmulatedLibrary

        text = source.for_host(self.text, list(self.signatures))
        return EmulatedLibrary(self.path.stem, text, self.defines, sanitize)

    @functools.cache  # noqa: B019
    def _on_gpu(self, device: int) -> Any:
        import cupy

        from gpuconv.backends.cuda.runtime import compiler

        with cupy.cuda.Device(device) as on:
            arch = compiler.architecture(on.compute_capability)
            binary = compiler.compile_cubin(self.path.stem, self.text, self.defines, arch)
            return cupy.RawModule(path=compiler.loadable(binary.path))


class Kernel:
    """A kernel, ready to be launched on whatever device its arrays are on."""

    def __init__(self, module: Module, signature: source.Signature) -> None:
        self.module = module
        self.signature = signature
        self.name = signature.name
        self._checks = [_check_of(parameter, self.name) for parameter in signature.parameters]
        self._pointers = [index for index, parameter in enumerate(signature.parameters) if parameter.pointer]
        self._runners: dict[str, Callable[..., None]] = {}

    def __call__(self, grid: Extent, block: Extent, *arguments: Any, shared: int = 0) -> None:
        """Launch. grid: blocks along x, y, z. block: threads along x, y, z. shared: bytes of dynamic shared memory.

        Raises TypeError and ValueError before anything runs, EmulatorError for a fault on the emulated device.
        """
        if len(arguments) != len(self._checks):
            listed = ", ".join(f"{p.c_type} {p.name}" for p in self.signature.parameters)
            raise TypeError(f"{self.name}({listed}) takes {len(self._checks)} arguments, received {len(arguments)}")
        arguments = tuple([check(argument) for check, argument in zip(self._checks, arguments)])
        device = self._device(arguments)
        grid3, block3 = _extent("grid", grid, _MAX_GRID, self.name), _extent("block", block, _MAX_BLOCK, self.name)
        self._check_sizes(block3, shared)
        if 0 in grid3:
            return
        key = f"emulated {emulator.settings().sanitize}" if device == "emulated" else device
        if key not in self._runners:
            self._runners[key] = self._emulated_runner() if device == "emulated" else self._gpu_runner(device)
        self._runners[key](grid3, block3, arguments, shared)

    def _device(self, arguments: tuple[Any, ...]) -> str:
        arrays = [(index, arguments[index]) for index in self._pointers if arguments[index] is not None]
        devices = {device_of(array) for _, array in arrays}
        if len(devices) != 1:
            named = ((self.signature.parameters[index].name, array) for index, array in arrays)
            listed = ", ".join(f"{name} on {device_of(array)}" for name, array in named) or "no array"
            raise TypeError(f"{self.name}: all arrays of a launch must be on one device, received {listed}")
        (device,) = devices
        if device == "numpy":
            raise TypeError(f"{self.name} runs on arrays of a CUDA or the emulated device, received NumPy arrays")
        return device

    def _check_sizes(self, block: tuple[int, ...], shared: int) -> None:
        threads, bound = math.prod(block), self.signature.max_threads or _MAX_THREADS
        if not 0 < threads <= bound:
            raise ValueError(f"{self.name} runs with 1 to {bound} threads a block, received {block}")
        if not 0 <= shared <= _MAX_SHARED:
            raise ValueError(f"{self.name}: a block has at most {_MAX_SHARED} bytes of shared memory, not {shared}")

    def _emulated_runner(self) -> Callable[..., None]:
        library = self.module._emulated(emulator.settings().sanitize)
        entry, names = library.entry(self.name), [p.name for p in self.signature.parameters]
        sizes = library.parameter_sizes(self.name, len(names))

        def run(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], shared: int) -> None:
            for name, size, argument in zip(names, sizes, arguments):
                if isinstance(argument, np.void) and argument.itemsize != size:
                    raise TypeError(f"{self.name}: {name} is a struct of {size} bytes, received {argument.itemsize}")
            submit(functools.partial(library.launch, self.name, entry, grid, block, arguments, names, shared))

        return run

    def _gpu_runner(self, device: str) -> Callable[..., None]:
        import cupy

        index = int(device.partition(":")[2])
        kernel, there = self.module._on_gpu(index).get_function(self.name), cupy.cuda.Device(index)
        null, allowed = np.uintp(0), _SHARED_WITHOUT_LEAVE - kernel.shared_size_bytes

        def run(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], shared: int) -> None:
            nonlocal allowed
            if shared > allowed:
                kernel.max_dynamic_shared_size_bytes = allowed = shared
            kernel(grid, block, tuple([null if a is None else a for a in arguments]), shared_mem=shared)

        def run_there(*launch: Any) -> None:
            with there:
                run(*launch)

        return run_there


def _extent(what: str, given: Extent, limits: tuple[int, ...], kernel: str) -> tuple[int, ...]:
    extent = (given, 1, 1) if isinstance(given, int) else (*given, 1, 1)[:3]
    if any(not 0 <= size <= limit for size, limit in zip(extent, limits)):
        raise ValueError(f"{kernel}: a {what} has at most {limits}, received {given}")
    return extent


def _check_of(parameter: source.Parameter, kernel: str) -> Callable[[Any], Any]:
    """Converts an argument to what the kernel takes; raises TypeError or ValueError."""
    what = f"{kernel}: {parameter.name} ({parameter.c_type})"
    if parameter.pointer:
        dtype = None if parameter.dtype is None else as_numeric(what, parameter.dtype)
        return functools.partial(_check_array, what, dtype, parameter.alignment)
    if parameter.dtype is None:
        return functools.partial(_check_struct, what)
    if parameter.dtype in ("float16", "bfloat16"):
        raise TypeError(f"{what}: hand a 16-bit scalar over as float")
    return functools.partial(_check_scalar, what, np.dtype(parameter.dtype))


def _check_array(what: str, dtype: np.dtype | None, alignment: int, array: Any) -> Any:
    if array is None:
        return None
    if not hasattr(array, "dtype") or not hasattr(array, "flags") or isinstance(array, np.generic):
        raise TypeError(f"{what} takes an array, received {type(array).__name__}")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{what} takes an array of {dtype}, received {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{what} takes a C-contiguous array, received strides {array.strides} of shape {array.shape}")
    if array.size and address(array) % max(alignment, min(16, array.dtype.itemsize)):
        raise ValueError(f"{what} takes an array aligned to {max(alignment, array.dtype.itemsize)} bytes")
    return array


def _check_scalar(what: str, dtype: np.dtype, value: Any) -> np.generic:
    whole = isinstance(value, (int, np.integer, np.bool_))
    if whole or (dtype.kind == "f" and isinstance(value, (float, np.floating))):
        try:
            return dtype.type(int(value) if dtype.kind in "iu" else value)
        except OverflowError:
            raise OverflowError(f"{what} cannot hold {value}") from None
    raise TypeError(f"{what} takes {'a number' if dtype.kind == 'f' else 'an integer'}, received {value!r}")


def _check_struct(what: str, value: Any) -> np.void:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if not isinstance(value, np.void) or not (value.dtype.isalignedstruct or value.dtype.names is None):
        raise TypeError(f"{what} takes a NumPy structured scalar of a dtype made with align=True, received {value!r}")
    return value


@functools.lru_cache(maxsize=4096)
def _load(path: Path, defines: tuple[tuple[str, Any], ...]) -> Module:
    return Module(path, {name: str(value) for name, value in defines})


@functools.lru_cache(maxsize=256)
def _resolve(file: str | Path) -> Path:
    return source.resolve(_replaced.get(str(file), file))


_replaced: dict[str, Path] = {}


@contextlib.contextmanager
def replaced(files: Mapping[str, Path]) -> Iterator[None]:
    """Within this context the launchers take these .cu files (paths) in place of shipped ones (names)."""
    before = dict(_replaced)
    _replaced.update(files)
    _resolve.cache_clear()
    try:
        yield
    finally:
        _replaced.clear()
        _replaced.update(before)
        _resolve.cache_clear()


def text_of(file: str | Path) -> str:
    """The flat text that `load` of this file compiles."""
    return source.flatten(_resolve(file))


def load(file: str | Path, defines: Mapping[str, Any] | None = None) -> Module:
    """A .cu file under a set of macros: a shipped one by its name, a user's own by its path.

    defines: macro names and what they stand for, such as ``{"DTYPE": x.dtype, "TILE": 32}``. The same file and
    macros give the same module, already compiled.
    """
    return _load(_resolve(file), tuple(defines.items()) if defines else ())
