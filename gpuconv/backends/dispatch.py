"""Finds the backend that serves a call, by its arrays."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpuconv.devices import MASKED, SUBCLASSES, device_or_none, kind_of, masked_array_error
from gpuconv.dtypes import as_numeric, is_numeric
from gpuconv.list_cache import ListCache

if TYPE_CHECKING:
    from gpuconv.backends.interface import Backend

Result = TypeVar("Result")

_PACKAGES = {
    "numpy": "gpuconv.backends.cpu",
    "cuda": "gpuconv.backends.cuda.ops",
    "emulated": "gpuconv.backends.cuda.ops",
}

_NONE: Mapping[str, object] = MappingProxyType({})

_uses_oracle = ContextVar("ops on NumPy arrays run the oracle", default=False)


@contextmanager
def oracle() -> Iterator[None]:
    """A context in which ops on NumPy arrays run the reference: they compute in float64 and round once to the arrays'
    dtype. It applies to this thread and this asyncio task; arrays of other devices are not affected."""
    token = _uses_oracle.set(True)
    try:
        yield
    finally:
        _uses_oracle.reset(token)


_watcher: Callable[..., object] | None = None


@contextmanager
def watch_calls(call: Callable[..., object]) -> Iterator[None]:
    """A context in which ops call their backend through ``call(function, *arrays, **options)``, which returns what the
    function returns. It holds for all threads. No frame lies between the op and `call`: `sys._getframe(1)` in `call` is
    the op's own frame, whose locals are the op's arguments. Raises RuntimeError inside another such context."""
    global _watcher
    if _watcher is not None:
        raise RuntimeError("the ops are watched already, by a shadow oracle, an explanation or a bisection")
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

    arrays: arguments that are arrays. lists: those that are lists of arrays. optional, optional_lists: arrays and lists
    of arrays that may be None; optional_lists are read only if there are lists. numbers: arguments that are a number or
    an array of one number.

    Raises TypeError, naming the argument, if the arrays live on several devices, and for a masked array, an array in
    the other byte order, an array that does not hold numbers, and anything that is not an array.
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
        _expect_one_device(arrays, {*lists, *optional_lists})
        kind = kind_of(given[0]) if given else "numpy"  # no array: nothing to do, or the op itself refuses the call
    backend: Any = _on_numpy(_uses_oracle.get()) if kind == "numpy" else _import_module(_PACKAGES[kind])  # type: ignore[index]
    if kind == "cuda":
        if given[0].data.device_id != sys.modules["cupy"].cuda.runtime.getDevice():
            backend = _CalledThrough(backend, partial(_on_device, given[0].device))
    elif SUBCLASSES and any(type(array) in SUBCLASSES for array in given):
        backend = _CalledThrough(backend, _on_plain_views)
    if _watcher is not None:
        backend = _CalledThrough(backend, _watcher)
    return backend


def _expect_one_device(arrays: Mapping[str, Any], lists: Collection[str]) -> None:
    """Raises as `backend_of` does. lists: the names of arguments that are lists."""
    devices = {device_or_none(array): array for array in arrays.values()}
    if None in devices:
        name, other = next(each for each in arrays.items() if device_or_none(each[1]) is None)
        accepted = "a list of arrays" if name in lists else "an array"
        raise TypeError(
            f"{name} must be {accepted} of NumPy or CuPy, received {type(other).__name__}; gpuconv.asarray makes arrays"
        )
    if MASKED in devices:
        raise masked_array_error(next(name for name, array in arrays.items() if kind_of(array) == MASKED))
    for name, array in arrays.items():
        if not is_numeric(array.dtype):
            _refuse_dtype(name, array.dtype)
    if len(devices) > 1:
        listed = ", ".join(f"{name} is {device_or_none(array)}" for name, array in arrays.items())
        raise TypeError(
            f"all arrays of one call must live on one device, received: {listed} "
            "(gpuconv.asarray(x, device=...) moves one)"
        )


@functools.cache
def _on_numpy(oracle: bool) -> _CalledThrough:
    name = "gpuconv.backends.reference" if oracle else _PACKAGES["numpy"]
    return _CalledThrough(_import_module(name), _without_warnings)


@functools.cache
def _import_module(name: str) -> ModuleType:
    return importlib.import_module(name)


_alike: ListCache[bool] = ListCache()  # fast path: lists of arrays of one kind, on one device


def _in_list(name: str, arrays: object) -> dict[str, object]:
    """The arrays in a list by name, such as "params[0]"; only the first one if all are of one kind on one device.
    Anything but a list is returned under the name of the argument."""
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
    array_type = type(arrays[0])
    gpu = arrays[0].data.device_id if kind == "cuda" else None
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


class _CalledThrough:
    """A backend whose ops are called through `call(op, *arrays, **options)`."""

    def __init__(self, backend: ModuleType | _CalledThrough, call: Callable[..., object]) -> None:
        self._backend, self._call = backend, call

    def __getattr__(self, name: str) -> _CalledThrough | partial[object]:
        member = getattr(self._backend, name)
        return (
            _CalledThrough(member, self._call)
            if isinstance(member, (ModuleType, _CalledThrough))
            else partial(self._call, member)
        )


def _without_warnings(op: Callable[..., Result], *arrays: object, **options: object) -> Result:
    """Run an op without NumPy's warnings: infinities and NaN are results, as on a GPU."""
    with np.errstate(all="ignore"):
        return op(*arrays, **options)


def _on_device(
    device: AbstractContextManager[object], op: Callable[..., Result], *arrays: object, **options: object
) -> Result:
    """Run an op on a CUDA device that is not the current one."""
    with device:
        return op(*arrays, **options)


def _on_plain_views(op: Callable[..., object], *arrays: object, **options: object) -> object:
    """Run an op on subclasses of NumPy's array, such as matrices: it receives plain views. If it returns one of them,
    the given array is returned instead."""
    viewed: list[tuple[np.ndarray, np.ndarray]] = []

    def plain(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value] if any(type(x) in SUBCLASSES for x in value) else value
        if not isinstance(value, np.ndarray) or type(value) not in SUBCLASSES:
            return value
        viewed.append((value, value.view(np.ndarray)))
        return viewed[-1][1]

    result = op(*map(plain, arrays), **{name: plain(value) for name, value in options.items()})
    return _as_given(result, viewed)


def _as_given(result: object, viewed: list[tuple[np.ndarray, np.ndarray]]) -> object:
    """The result of an op, with plain views replaced by the given arrays."""
    if isinstance(result, tuple):
        return tuple(_as_given(each, viewed) for each in result)
    return next((given for given, view in viewed if view is result), result)
