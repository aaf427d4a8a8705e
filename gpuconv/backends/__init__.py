"""Devices, and the backend of an array.

A device is named "numpy" (or "cpu"), "cuda" (or "cuda:1", ...), "emulated", or "auto". An array's type determines where
it
lives: NumPy arrays belong to the CPU backend, or within `oracle()` to the reference; CuPy arrays and emulated arrays to
the CUDA backend. Nothing is moved silently: arrays of two devices in one call are a TypeError.

Importing this module loads no CUDA library; each backend is imported on the first use of its name or its arrays.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.devices import MASKED, SUBCLASSES, Device, DeviceError, address, device_of, kind_of, masked, place_of
from gpuconv.dtypes import as_dtype, as_numeric, is_numeric
from gpuconv.lists import WhileAlive
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from gpuconv.backends.offered import Backend

_HOMES = {"numpy": "gpuconv.backends.cpu", "cuda": "gpuconv.backends.cuda.ops", "emulated": "gpuconv.backends.cuda.ops"}

_NONE: Mapping[str, object] = MappingProxyType({})

_asks_the_oracle = ContextVar("ops on NumPy arrays run the oracle", default=False)


@contextmanager
def oracle() -> Iterator[None]:
    """A context in which ops on NumPy arrays run the reference: they compute in float64 and round once to the arrays'
    dtype. It applies to this thread and this asyncio task; arrays of other devices are not affected."""
    token = _asks_the_oracle.set(True)
    try:
        yield
    finally:
        _asks_the_oracle.reset(token)


_watcher: Callable[..., object] | None = None


@contextmanager
def watched(call: Callable[..., object]) -> Iterator[None]:
    """A context in which ops call their backend through ``call(function, *arrays, **options)``, which returns what the
    function returns. It holds for all threads; the frame that calls `call` is the op's own, with its arguments."""
    global _watcher
    if _watcher is not None:
        raise RuntimeError("the ops are watched already, by a shadow oracle or an explanation")
    _watcher = call
    try:
        yield
    finally:
        _watcher = None


def backend_of(
    *,
    lists: Mapping[str, object] = _NONE,
    optional_lists: Mapping[str, object] = _NONE,
    optional: Mapping[str, object] = _NONE,
    numbers: Mapping[str, object] = _NONE,
    **arrays: Any,
) -> type[Backend]:
    """The backend that serves a call on these arrays.

    lists: arguments that are lists of arrays. optional, optional_lists: those that may be None. numbers: arguments that
    may be a number or an array of one. Raises a TypeError that names the argument for arrays of several devices, a
    masked array, an array in the other byte order or of another dtype than numbers, and anything that is not an array.
    """
    if lists:
        for name, listed in lists.items():
            arrays |= _in_list(name, listed)
        for name, listed in optional_lists.items():
            arrays |= {} if listed is None else _in_list(name, listed)
    for name, array in optional.items():
        if array is not None:
            arrays[name] = array
    for name, value in numbers.items():
        if kind_of(value) is not None:
            arrays[name] = value
    given = list(arrays.values())
    kind = _common_kind(given)
    if kind is None:
        _expect_one_place(arrays, {*lists, *optional_lists})
        kind = kind_of(given[0]) if given else "numpy"  # no array: nothing to do, or the op itself refuses the call
    backend: Any = _oracle() if kind == "numpy" and _asks_the_oracle.get() else _imported(_HOMES[kind])  # type: ignore[index]
    if kind == "cuda":
        if given[0].data.device_id != sys.modules["cupy"].cuda.runtime.getDevice():
            backend = _Around(backend, partial(_on_device, given[0].device))
    elif SUBCLASSES and any(type(array) in SUBCLASSES for array in given):
        backend = _Around(backend, _on_plain_views)
    if _watcher is not None:
        backend = _Around(backend, _watcher)
    return backend


def _expect_one_place(arrays: Mapping[str, Any], lists: Collection[str]) -> None:
    """Raises as `backend_of` does. lists: the names of arguments that are lists."""
    places = {place_of(array): array for array in arrays.values()}
    if None in places:
        name, stranger = next(each for each in arrays.items() if place_of(each[1]) is None)
        accepted = "a list of arrays" if name in lists else "an array"
        raise TypeError(
            f"{name} must be {accepted} of NumPy or CuPy, received {type(stranger).__name__}; "
            "gpuconv.asarray makes arrays"
        )
    if MASKED in places:
        raise masked(next(name for name, array in arrays.items() if place_of(array) == MASKED))
    for name, array in arrays.items():
        if not is_numeric(array.dtype):
            _refuse_dtype(name, array.dtype)
    if len(places) > 1:
        listed = ", ".join(f"{name} is {place_of(array)}" for name, array in arrays.items())
        raise TypeError(
            f"all arrays of one call must live on one device, received: {listed} "
            "(gpuconv.asarray(x, device=...) moves one)"
        )


def _oracle() -> _Around:
    return _Around(_imported("gpuconv.backends.reference"), _quietly)


@functools.cache
def _imported(name: str) -> ModuleType:
    return importlib.import_module(name)


_alike = WhileAlive()  # fast path: lists of arrays of one kind, on one device


def _in_list(name: str, arrays: object) -> dict[str, object]:
    """The arrays in a list by name, "params[0]" and so on; only the first one if all are of one kind on one device.
    Anything but a list has its own name."""
    if not isinstance(arrays, (list, tuple)):
        return {name: arrays}
    if not _alike.get(arrays):
        if _common_kind(arrays) is None:
            return {f"{name}[{index}]": array for index, array in enumerate(arrays)}
        _alike.keep(arrays, True)
    return {f"{name}[0]": arrays[0]}


def _common_kind(arrays: Sequence[Any]) -> str | None:
    """Fast path: the kind of device of the arrays if they have one type, are on one device and hold numbers; otherwise
    None."""
    if not arrays or (kind := kind_of(arrays[0])) is None or type(arrays[0]) in SUBCLASSES:
        return None
    array_type, gpu = type(arrays[0]), arrays[0].data.device_id if kind == "cuda" else None
    numeric = None  # the last dtype that was found to be numeric
    for array in arrays:
        if type(array) is not array_type or (gpu is not None and array.data.device_id != gpu):
            return None
        if array.dtype is not numeric:
            numeric = array.dtype
            if not is_numeric(numeric):
                return None
    return kind


def _refuse_dtype(name: str, dtype: np.dtype) -> None:
    """Raise the TypeError for an array that does not hold numbers, or is in the other byte order."""
    native = as_numeric(name, dtype)
    raise TypeError(
        f"{name} must be in this machine's byte order, received {native.name} in the other one ({dtype.str!r}); "
        "gpuconv.asarray converts it"
    )


class _Around:
    """A backend whose ops are called through `call(op, *arrays, **options)`."""

    def __init__(self, backend: ModuleType | _Around, call: Callable[..., Any]) -> None:
        self._backend, self._call = backend, call

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._backend, name)
        return _Around(member, self._call) if isinstance(member, (ModuleType, _Around)) else partial(self._call, member)


def _quietly(op: Callable[..., Any], *arrays: object, **options: Any) -> Any:
    """Infinities and NaN are results, as on a GPU, not warnings."""
    with np.errstate(all="ignore"):
        return op(*arrays, **options)


def _on_device(device: AbstractContextManager[object], op: Callable[..., Any], *arrays: object, **options: Any) -> Any:
    """Run an op on a CUDA device that is not the current one."""
    with device:
        return op(*arrays, **options)


def _on_plain_views(op: Callable[..., Any], *arrays: object, **options: Any) -> Any:
    """Run an op on subclasses of NumPy's array, such as matrices: it receives plain views, and an output that it
    returns is replaced by the given array."""
    viewed: list[tuple[np.ndarray, np.ndarray]] = []

    def plain(value: Any) -> object:
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value] if any(type(x) in SUBCLASSES for x in value) else value
        if type(value) not in SUBCLASSES:
            return value
        viewed.append((value, value.view(np.ndarray)))
        return viewed[-1][1]

    result = op(*map(plain, arrays), **{name: plain(value) for name, value in options.items()})
    return _as_given(result, viewed)


def _as_given(result: object, viewed: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    """The result of an op, with plain views replaced by the given arrays."""
    if isinstance(result, tuple):
        return tuple(_as_given(each, viewed) for each in result)
    return next((given for given, view in viewed if view is result), result)


# --- choosing a device and moving arrays -------------------------------------------------------


def _adapter(device: str) -> Any:
    """The adapter that creates arrays on a device. Raises as `resolve` does."""
    asked = Device.named(str(device))
    if asked.kind == "auto":
        return _chosen()[0]
    if not asked.runs_kernels:
        from gpuconv.backends.cpu.device import NumpyDevice

        return NumpyDevice()
    from gpuconv.backends.cuda.device import open_device

    return open_device(asked)


def resolve(device: str) -> str:
    """The full name of a device, checked: "auto" becomes the device of `choose`, "cuda" becomes "cuda:0", "cpu" becomes
    "numpy".

    Raises ValueError for an unknown name (the nearest known one is named) and DeviceError, saying what is missing, for
    a device that is not available.
    """
    return _adapter(device).name


def choose() -> tuple[str, str]:
    """The device that "auto" means, and the reason in one line: the first CUDA GPU if one works, else NumPy."""
    device, why = _chosen()
    return device.name, why


def _chosen() -> tuple[Any, str]:
    try:
        device = _adapter("cuda")
    except DeviceError as error:
        return _adapter("numpy"), f"no CUDA device: {error}"
    return device, device.description


def describe(device: str) -> str:
    """A one-line description of a device. Raises as `resolve` does."""
    return _adapter(device).description


def asarray(x: Any, device: str | None = None, dtype: DTypeLike | None = None) -> Any:
    """`x` as an array on `device`, without a copy if none is needed.

    x: an array of any device, anything that supports DLPack (such as a PyTorch tensor) or `__cuda_array_interface__`,
    or anything `numpy.asarray` takes. device: by default where x is, or "numpy" for anything that is not an array.
    dtype: by default x's. In the other direction, arrays of every device support DLPack: `torch.from_dlpack(x)`.

    The other byte order is converted; a subclass of NumPy's array becomes a plain view. Raises TypeError for a masked
    array and for objects, text, dates and records.
    """
    x = _adopted(x)
    place = place_of(x)
    dtype = None if dtype is None else as_numeric("dtype", dtype)
    device = resolve(device) if device is not None else place or "numpy"
    if place != device or device == "numpy":
        host = to_numpy(x)
        x = _adapter(device).from_host(host if dtype is None else host.astype(dtype, copy=False))
    if dtype is None or x.dtype == dtype:
        return x
    with current_device_of(x):
        return x.astype(dtype)


_DLPACK_CUDA = 2  # kDLCUDA of dlpack.h


def _adopted(x: Any, name: str = "the array") -> Any:
    """Another library's array in GPU memory as one of ours, sharing its memory; anything else unchanged."""
    place = place_of(x)
    if place == MASKED or _holds_masked(x):
        raise masked(name)
    if place is not None:
        return x
    if hasattr(x, "__dlpack_device__"):
        kind, index = x.__dlpack_device__()
        if kind == _DLPACK_CUDA:
            return _adapter(f"cuda:{index}").from_dlpack(x)
        if str(getattr(x, "dtype", None)) == "torch.bfloat16":  # NumPy cannot import this dtype through DLPack
            return x.detach().view(sys.modules["torch"].int16).numpy().view(as_dtype("bfloat16"))
        return x
    return _adapter("cuda").from_cuda_array_interface(x) if hasattr(x, "__cuda_array_interface__") else x


def _holds_masked(x: object) -> bool:
    """Whether a list, or a list inside it, contains a masked array."""
    return isinstance(x, (list, tuple)) and any(kind_of(row) == MASKED or _holds_masked(row) for row in x)


def to_numpy(x: object, name: str = "the array") -> np.ndarray:
    """`x` as a NumPy array: a copy from device memory, or `x` itself when it is one already.

    Byte order, subclasses and errors: as in `asarray`. name: for messages.
    """
    x = _adopted(x, name)
    place = place_of(x)
    if place is None:
        host = np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    else:
        host = _adapter(place).to_numpy(x)
    host = host if type(host) is np.ndarray else host.view(np.ndarray)
    return host if is_numeric(host.dtype) else host.astype(as_numeric(name, host.dtype))


def empty(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Any:
    """An uninitialized array."""
    return _adapter(device).empty(tuple(shape), as_numeric("an array", dtype))


def zeros(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Any:
    """An array of zeros."""
    return _adapter(device).zeros(tuple(shape), as_numeric("an array", dtype))


def algorithms(
    device: str,
    problem: Conv2dProblem,
    dtype: DTypeLike,
    *,
    algo: str = "auto",
    tf32: bool = False,
    epilogue: Epilogue = PLAIN,
) -> dict[str, str]:
    """The names of the algorithms of a convolution's "fprop", "dgrad" and "wgrad" on a device; {} on "numpy", which has
    only one. On a GPU "auto" is the fastest measured one, or the cost model's choice if nothing was measured yet. They
    are `gpuconv.algorithms.Choice`, which also has the proof of an algorithm that the GPU had to prove first."""
    device = resolve(device)
    if not Device.named(device).runs_kernels:
        return {}
    from gpuconv.backends.cuda.ops.conv import chosen

    return chosen(device, problem, epilogue, as_dtype(dtype), algo=algo, tf32=tf32)


def assign(array: Array, value: object) -> None:
    """``array[...] = value`` on the array's own device. value: a number, a host array, or an array of that device."""
    with current_device_of(array):
        array[...] = value if np.isscalar(value) else asarray(value, device_of(array))


def current_device_of(array: Any) -> AbstractContextManager[object]:
    """A context that makes an array's device CUDA's current one, as CuPy requires; does nothing for other devices."""
    return array.device if kind_of(array) == "cuda" else nullcontext()


def synchronize(device: str = "numpy") -> None:
    """Wait until everything launched on a device is done; NumPy runs synchronously, so this does nothing there."""
    _adapter(device).synchronize()


def fixed_parts(device: str) -> AbstractContextManager[None]:
    """A context in which ops on a device give the same bits on any number of cores, and on every GPU of one model. On
    "emulated" it does nothing: the order of a kernel's sums depends only on the shapes."""
    adapter = _adapter(device)
    return adapter.fixed_parts() if hasattr(adapter, "fixed_parts") else nullcontext()


def identity(device: str) -> str:
    """What determines the bits of a device's results, besides gpuconv: its name and description, and for "numpy" its
    version and number of threads."""
    adapter = _adapter(device)
    more = adapter.identity() if hasattr(adapter, "identity") else adapter.description
    return f"{adapter.name}: {more}"


def recorder(device: str) -> Any:
    """The recorder that captures and replays work on a CUDA device or the emulated one, see `cuda.runtime.graph`."""
    return _adapter(device).recorder()
