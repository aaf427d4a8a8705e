"""Loads .cu files and launches their kernels, on a GPU and on the emulated device. Every op launches through this
module.

    add = load("arithmetic.cu", {"DTYPE": "float32", "WIDTH": 1}).kernel("add_forward")
    add(grid, block, y, a, b, n)

The kind of the arrays chooses the device. Every launch is checked against the signature in the source: the number of
arguments, each array's dtype, contiguity, alignment and device, each integer's range. Scalars are cast to the exact C
type, None is a null pointer, and a launch of no blocks is skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.arguments import is_real
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.capture import submit
from gpuconv.backends.cuda.runtime import replaced_files, source
from gpuconv.backends.cuda.runtime.limits import MAX_BLOCK, MAX_GRID, MAX_SHARED, MAX_THREADS, SHARED_WITHOUT_OPT_IN
from gpuconv.devices import KIND_OF_TYPE, Device, device_of
from gpuconv.dtypes import as_numeric
from gpuconv.names import lookup
from gpuconv.types import Array

if TYPE_CHECKING:
    import cupy

    from gpuconv.backends.cuda.emulator.library import EmulatedLibrary


Extent = int | tuple[int, ...]
Extent3 = tuple[int, int, int]
Runner = Callable[[Extent3, Extent3, list[object], int], None]

_NULL = np.uintp(0)  # a pointer


class Module:
    """One .cu file under one set of macros. It is compiled when a kernel is first launched, or by `digest`."""

    def __init__(self, path: Path, defines: Mapping[str, str]) -> None:
        self.path = path
        self.defines = MappingProxyType(dict(defines))
        self.text = source.flatten(path)
        self.signatures = source.signatures(self.text, self.defines)
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """A kernel by its name. Raises ValueError, naming the nearest one, if the file has no kernel of that name."""
        if name not in self._kernels:
            if not self.signatures:
                raise ValueError(f'{self.path.name} has no kernel; kernels are declared as extern "C" __global__ void')
            self._kernels[name] = Kernel(self, lookup(f"kernel of {self.path.name}", name, self.signatures))
        return self._kernels[name]

    @functools.cache  # noqa: B019 - modules live as long as the process
    def _emulated(self, sanitize: str) -> EmulatedLibrary:
        from gpuconv.backends.cuda.emulator.library import EmulatedLibrary

        text = source.for_host(self.text, list(self.signatures))
        return EmulatedLibrary(self.path.stem, text, self.defines, sanitize)

    @functools.cache  # noqa: B019
    def _on_gpu(self, device: int) -> cupy.RawModule:
        import cupy

        from gpuconv.backends.cuda.runtime import cubin_path, nvrtc

        with cupy.cuda.Device(device) as on:
            arch = nvrtc.architecture(on.compute_capability)
            binary = nvrtc.compile_cubin(self.path.stem, self.text, self.defines, arch)
            return cupy.RawModule(path=cubin_path.loadable(binary.path))

    def digest(self, device: int | None, *, build: bool = True) -> str | None:
        """The digest of the machine code for a GPU; for the emulated device (None), of the text and the macros.

        build: whether to compile if the code is not in the cache; with False, the digest is None in that case.
        """
        from gpuconv.backends.cuda.runtime import nvrtc

        if device is None:
            return nvrtc.digest(repr((self.text, sorted(self.defines.items()))).encode())
        import cupy

        arch = nvrtc.architecture(cupy.cuda.Device(device).compute_capability)
        find = nvrtc.compile_cubin if build else nvrtc.find_cubin
        binary = find(self.path.stem, self.text, self.defines, arch)
        return None if binary is None else binary.digest


class Kernel:
    """A kernel, which runs on the device that its arrays are on; its first launch on a device compiles it.
    proof: how a GPU proved the kernel's algorithm, as text for people; "" if it needs no proof."""

    proof = ""

    def __init__(self, module: Module, signature: source.Signature) -> None:
        self.module = module
        self.signature = signature
        self.name = signature.name
        self._checks = [_check_of(parameter, self.name) for parameter in signature.parameters]
        self._pointers = [index for index, parameter in enumerate(signature.parameters) if parameter.pointer]
        self._arrays = [(index, *_usual_array(signature.parameters[index])) for index in self._pointers]
        values = [(index, parameter) for index, parameter in enumerate(signature.parameters) if not parameter.pointer]
        self._numbers = [(index, *_usual_number(parameter)) for index, parameter in values if parameter.dtype]
        self._structs = [index for index, parameter in values if not parameter.dtype]
        self._runners: dict[str | int, Runner] = {}
        # Extents that compare equal, whatever the types of their numbers, are the same geometry.
        self._geometry = functools.lru_cache(maxsize=256)(self._check_geometry)

    def __call__(self, grid: Extent, block: Extent, *arguments: object, shared: int = 0) -> None:
        """Launch. grid: blocks along x, y, z. block: threads along x, y, z. shared: bytes of dynamic shared memory.

        Raises TypeError, ValueError or OverflowError for arguments that do not fit, and CompileError or
        HostCompilerError if the kernel does not compile; nothing has run then. Raises EmulatorError for a fault on the
        emulated device.
        """
        gpu, converted = self._fast_path(arguments)
        if gpu is None:
            gpu, converted = self._checked(arguments)
        try:
            grid3, block3 = self._geometry(grid, block, shared)
        except TypeError:  # a list, for example, is not hashable
            grid3, block3 = self._check_geometry(grid, block, shared)
        if 0 in grid3:
            return
        where = f"emulated {emulator.settings().sanitize}" if gpu is None else gpu
        run = self._runners.get(where)
        if run is None:
            run = self._runners[where] = self._emulated_runner() if gpu is None else self._gpu_runner(gpu)
        run(grid3, block3, converted, shared)

    def _fast_path(self, arguments: tuple[Any, ...]) -> tuple[int | None, list[object]]:
        """The GPU that the arrays are on, and the arguments in the driver's form. The GPU is None if the arrays are not
        all on one GPU or an argument does not have the usual form; `_checked` then accepts or refuses the arguments."""
        kind = gpu = None
        converted = list(arguments)
        if len(converted) != len(self._checks):
            return None, converted
        for index, dtype, unaligned in self._arrays:
            array = converted[index]
            if array is None:
                converted[index] = _NULL
                continue
            if type(array) is not kind:
                if kind is not None or KIND_OF_TYPE.get(type(array)) != "cuda":
                    return None, converted
                kind, gpu = type(array), array.data.device_id
            memory = array.data
            if memory.device_id != gpu or memory.ptr & unaligned or not array.flags.c_contiguous:
                return None, converted
            if array.dtype is not dtype and dtype is not None and array.dtype != dtype:
                return None, converted
        try:
            for index, make, types in self._numbers:
                number = converted[index]
                if type(number) not in types:
                    return None, converted
                converted[index] = make(number)
        except OverflowError:
            return None, converted
        for index in self._structs:
            if type(converted[index]) is not np.void or not converted[index].dtype.isalignedstruct:
                return None, converted
        return gpu, converted

    def _checked(self, arguments: tuple[object, ...]) -> tuple[int | None, list[object]]:
        """The GPU that the arrays are on, or None for the emulated device; and the arguments in that device's form.
        Raises TypeError, ValueError or OverflowError for arguments that do not fit."""
        if len(arguments) != len(self._checks):
            listed = ", ".join(f"{p.c_type} {p.name}" for p in self.signature.parameters)
            raise TypeError(f"{self.name}({listed}) takes {len(self._checks)} arguments, received {len(arguments)}")
        checked = [check(argument) for check, argument in zip(self._checks, arguments)]
        device = Device.named(self._device(checked))
        if device.on_gpu:
            return device.index, [_NULL if argument is None else argument for argument in checked]
        return None, checked

    def _device(self, arguments: Sequence[object]) -> str:
        """The one device of all arrays. Raises TypeError unless there is one that runs kernels."""
        arrays = [(index, arguments[index]) for index in self._pointers if arguments[index] is not None]
        if arrays and all(KIND_OF_TYPE.get(type(array)) == "emulated" for _, array in arrays):
            return "emulated"
        devices = {device_of(array) for _, array in arrays}
        if len(devices) != 1:
            named = ((self.signature.parameters[index].name, array) for index, array in arrays)
            listed = ", ".join(f"{name} on {device_of(array)}" for name, array in named) or "no array"
            raise TypeError(f"{self.name}: all arrays of a launch must be on one device, received {listed}")
        (device,) = devices
        if not Device.named(device).runs_kernels:
            raise TypeError(f"{self.name} runs on arrays of a CUDA or the emulated device, received NumPy arrays")
        return device

    def _check_geometry(self, grid: Extent, block: Extent, shared: int) -> tuple[Extent3, Extent3]:
        grid3, block3 = _extent("grid", grid, MAX_GRID, self.name), _extent("block", block, MAX_BLOCK, self.name)
        (x, y, z), bound = block3, self.signature.max_threads or MAX_THREADS
        if not 0 < x * y * z <= bound:
            raise ValueError(f"{self.name} runs with 1 to {bound} threads per block, received {block3}")
        cluster = self.signature.cluster
        if grid3[0] % cluster:
            raise ValueError(
                f"{self.name} runs in clusters of {cluster} blocks along x, so x of a grid is a multiple of {cluster}, "
                f"not {grid3[0]}"
            )
        if not isinstance(shared, (int, np.integer)):
            raise TypeError(f"{self.name}: shared is a number of bytes, an integer, received {shared!r}")
        if not 0 <= shared <= MAX_SHARED:
            raise ValueError(f"{self.name}: a block has at most {MAX_SHARED} bytes of shared memory, not {shared}")
        return grid3, block3

    def _emulated_runner(self) -> Runner:
        library = self.module._emulated(emulator.settings().sanitize)
        entry, names = library.entry(self.name), [p.name for p in self.signature.parameters]
        sizes, cluster = library.parameter_sizes(self.name, len(names)), self.signature.cluster

        def run(grid: Extent3, block: Extent3, arguments: list[object], shared: int) -> None:
            for name, size, argument in zip(names, sizes, arguments):
                if isinstance(argument, np.void) and argument.itemsize != size:
                    raise TypeError(f"{self.name}: {name} is a struct of {size} bytes, received {argument.itemsize}")
            submit(functools.partial(library.launch, self.name, entry, grid, block, arguments, names, shared, cluster))

        return run

    def _gpu_runner(self, index: int) -> Runner:
        import cupy

        current, own_device = cupy.cuda.runtime.getDevice, cupy.cuda.Device(index)
        kernel = self.module._on_gpu(index).get_function(self.name)
        allowed = SHARED_WITHOUT_OPT_IN - kernel.shared_size_bytes

        def run(grid: Extent3, block: Extent3, arguments: list[object], shared: int) -> None:
            nonlocal allowed
            if current() != index:
                with own_device:
                    return run(grid, block, arguments, shared)
            if shared > allowed:
                kernel.max_dynamic_shared_size_bytes = allowed = shared
            kernel(grid, block, tuple(arguments), shared_mem=shared)

        return run


def _extent(what: str, extent: Extent, limits: Extent3, kernel: str) -> Extent3:
    """An extent along x, y and z, given one to three integers."""
    given = extent if isinstance(extent, tuple) else (extent,)
    integers = all(isinstance(each, (int, np.integer)) for each in given)
    if integers and 1 <= len(given) <= 3 and all(0 <= each <= limit for each, limit in zip(given, limits)):
        x, y, z = (*given, 1, 1)[:3]
        return x, y, z
    raise ValueError(
        f"{kernel}: a {what} is one to three integers from 0 to {limits}, as an integer or a tuple, received {extent!r}"
    )


def _usual_array(parameter: source.Parameter) -> tuple[np.dtype | None, int]:
    """The usual form of an array: its dtype (None if any is accepted), and the bits that are 0 in its address."""
    dtype = None if parameter.dtype is None else as_numeric(parameter.name, parameter.dtype)
    return dtype, max(parameter.alignment, 16 if dtype is None else min(16, dtype.itemsize)) - 1


def _usual_number(parameter: source.Parameter) -> tuple[Callable[[Any], Any], tuple[type, ...]]:
    """The type of the kernel's parameter, and the usual types of the argument."""
    number = np.dtype(parameter.dtype)
    return number.type, (float, int) if number.kind == "f" else (int, bool)


def _check_of(parameter: source.Parameter, kernel: str) -> Callable[[Any], Any]:
    """The function that converts an argument to the kernel's type; it raises TypeError, ValueError or OverflowError."""
    what = f"{kernel}: {parameter.name} ({parameter.c_type})"
    if parameter.pointer:
        dtype = None if parameter.dtype is None else as_numeric(what, parameter.dtype)
        return functools.partial(_check_array, what, dtype, parameter.alignment)
    if parameter.dtype is None:
        return functools.partial(_check_struct, what)
    if parameter.dtype in ("float16", "bfloat16"):
        raise TypeError(f"{what}: a kernel takes a 16-bit scalar as float; declare the parameter float")
    return functools.partial(_check_scalar, what, np.dtype(parameter.dtype))


def _check_array(what: str, dtype: np.dtype | None, alignment: int, array: Array | None) -> Array | None:
    if array is None:
        return None
    if not hasattr(array, "dtype") or not hasattr(array, "flags") or isinstance(array, np.generic):
        raise TypeError(f"{what} takes an array, received {type(array).__name__}")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{what} takes an array of {dtype}, received {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{what} takes a C-contiguous array, received strides {array.strides} of shape {array.shape}")
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr  # devices.address, inlined
    needed = max(alignment, min(16, array.dtype.itemsize))
    if array.size and address % needed:
        raise ValueError(
            f"{what} takes an array aligned to {needed} bytes, received one that begins {address % needed} bytes after "
            "such an address"
        )
    return array


def _check_scalar(what: str, dtype: np.dtype, value: object) -> np.generic:
    if isinstance(value, (int, np.integer, np.bool_)) or (dtype.kind == "f" and is_real(value)):
        try:
            return dtype.type(int(value) if dtype.kind in "iu" else value)
        except OverflowError:
            raise OverflowError(f"{what} cannot hold {value}") from None
    raise TypeError(f"{what} takes {'a number' if dtype.kind == 'f' else 'an integer'}, received {value!r}")


def _check_struct(what: str, value: object) -> np.void:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if not isinstance(value, np.void) or not (value.dtype.isalignedstruct or value.dtype.names is None):
        raise TypeError(f"{what} takes a NumPy structured scalar of a dtype made with align=True, received {value!r}")
    return value


@functools.lru_cache(maxsize=4096, typed=True)  # typed: 1, 1.0 and True compare equal but are different texts
def _load(file: Path | replaced_files.Edition, macros: tuple[str, ...], *values: object) -> Module:
    return Module(file if isinstance(file, Path) else file.path, dict(zip(macros, map(str, values))))


def unload() -> None:
    """Drop what was derived from kernel files, and the modules that `load` returned, because a user's file or one of
    its headers may have changed."""
    replaced_files.forget()
    _load.cache_clear()


def load(file: str | Path, defines: Mapping[str, object] | None = None) -> Module:
    """The module of a .cu file with a set of macros. file: the name of a shipped file, or the path of a user's file.

    defines: macros by name, such as ``{"DTYPE": x.dtype, "TILE": 32}``. The same file and the same macros in the same
    order return the same module, so that each kernel is compiled only once for a device. Raises ValueError if the file
    or one of its headers is missing, or if a kernel's signature cannot be read.
    """
    defines = defines or {}
    return _load(replaced_files.resolve(file), tuple(defines), *defines.values())
