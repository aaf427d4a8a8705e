"""Arrays on the emulated device: an ndarray subclass, so that dispatch is by type, as with CuPy."""

from __future__ import annotations

import ctypes
import functools
import math
import operator
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda.emulator.capture import forbid
from gpuconv.dtypes import as_numeric

POISON_INTEGER, POISON_FLOAT = 0xCD, 0xFF  # 0xff...ff is a NaN in every floating-point dtype


class EmulatedArray(np.ndarray):
    """An array in the emulated device's memory.

    `empty`, `zeros` and `asarray` of this module create it with guards around it, aligned to 256 bytes as by
    cudaMalloc. NumPy's ufuncs, so also operators, work on it and return arrays of this class, but without alignment and
    guards, as do NumPy's other functions, such as `numpy.where`. As on a GPU, a ufunc raises TypeError if a NumPy array
    of one or more dimensions takes part; the other functions do not check this.
    """

    device = "emulated"  # type: ignore[assignment]  # as NumPy's arrays have device "cpu"

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[np.ndarray, ...] | None = None, **options: Any
    ) -> object:
        forbid(f"numpy.{ufunc.__name__}")
        for operand in (*inputs, *(out or ()), options.get("where")):
            if isinstance(operand, np.ndarray) and not isinstance(operand, EmulatedArray) and operand.ndim:
                raise TypeError(
                    f"numpy.{ufunc.__name__} received an array on the emulated device and a NumPy array; "
                    "gpuconv.asarray(x, device=...) moves one"
                )
        if out is not None:
            options["out"] = tuple(_plain(array) for array in out)
        if "where" in options:
            options["where"] = _plain(options["where"])
        result = getattr(ufunc, method)(*(_plain(operand) for operand in inputs), **options)
        results = result if isinstance(result, tuple) else (result,)
        found = tuple(
            _emulated(x) if given is None else given for x, given in zip(results, out or (None,) * len(results))
        )
        return found if isinstance(result, tuple) else found[0]

    def __array_function__(
        self, function: Callable[..., object], types: Iterable[type], args: Iterable[Any], options: Mapping[str, Any]
    ) -> object:
        forbid(f"numpy.{function.__name__}")
        return _emulated(super().__array_function__(function, types, args, options))

    def __reduce__(self) -> tuple[object, ...]:
        """A pickle holds the values; unpickling creates an array in the emulated device's memory."""
        forbid("__reduce__")
        return asarray, (self.view(np.ndarray),)

    def copy(self, order: Literal["K", "A", "C", "F"] | None = "C") -> EmulatedArray:
        """A copy: in the emulated device's memory if the order is "C", else in NumPy's."""
        forbid("copy")
        return asarray(self.view(np.ndarray)) if order == "C" else super().copy(order)

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> EmulatedArray:
        return self.copy()

    def view(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - an array of the requested class
        """A view with another dtype, or as a plain NumPy array for access by the host."""
        result = super().view(*arguments, **options)
        if not isinstance(result, EmulatedArray):
            forbid("view(numpy.ndarray)")
        return result


def _host_only(name: str) -> Callable[..., object]:
    """Wraps the method of this name, which reads or writes memory: within `device_only` it raises."""
    method = getattr(np.ndarray, name)

    @functools.wraps(method)
    def guarded(self: EmulatedArray, *arguments: object, **options: object) -> object:
        forbid(name)
        return method(self, *arguments, **options)

    return guarded


def _view_or_copy(name: str) -> Callable[..., object]:
    """Wraps the method of this name: within `device_only` its result must share the array's memory."""
    method = getattr(np.ndarray, name)

    @functools.wraps(method)
    def guarded(self: EmulatedArray, *arguments: object, **options: object) -> object:
        result = method(self, *arguments, **options)
        if not (isinstance(result, np.ndarray) and _is_view(result, self)):
            forbid(f"{name}, which copies here")
        return result

    return guarded


def _is_view(result: np.ndarray, array: np.ndarray) -> bool:
    """Whether the result lies in the array's memory; true for a result without elements, which copies nothing."""
    return not result.size or np.may_share_memory(_plain_view(result), _plain_view(array))


def _plain_view(array: np.ndarray) -> np.ndarray:
    return np.ndarray.view(array, np.ndarray)


_HOST_ONLY = """
    __setitem__ __bool__ __int__ __float__ __index__ __complex__ __contains__ __repr__ __str__ __format__
    __dlpack__ all any argmax argmin argpartition argsort astype byteswap choose clip compress
    conj conjugate cumprod cumsum dot dump dumps fill flatten item max mean min nonzero partition prod put repeat
    resize round searchsorted setfield sort std sum take tobytes tofile tolist trace var
"""
for _name in _HOST_ONLY.split():
    setattr(EmulatedArray, _name, _host_only(_name))
for _name in ("__getitem__", "ravel", "reshape"):
    setattr(EmulatedArray, _name, _view_or_copy(_name))


def _plain(operand: object) -> object:
    return operand.view(np.ndarray) if isinstance(operand, EmulatedArray) else operand


def _emulated(result: Any) -> Any:  # noqa: ANN401 - what a function of NumPy returns
    """A result of NumPy with arrays of this class in place of NumPy's, also inside lists and tuples."""
    if isinstance(result, (list, tuple)):
        parts = [*map(_emulated, result)]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result.view(EmulatedArray) if type(result) is np.ndarray else result


def _allocate(shape: int | Sequence[int], dtype: DTypeLike, poison: int | None) -> EmulatedArray:
    from gpuconv.backends.cuda.emulator.runtime import runtime

    dtype = as_numeric("an array", dtype)
    shape = tuple(map(operator.index, (shape,) if isinstance(shape, (int, np.integer)) else shape))
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has no negative dimensions, received shape {shape}")
    nbytes = math.prod(shape) * dtype.itemsize
    if poison is None:
        poison = POISON_INTEGER if dtype.kind in "iub" else POISON_FLOAT
    address = runtime().gpuconv_allocate(nbytes, poison) if nbytes < 2**63 else None
    if not address:
        raise MemoryError(f"no memory for an emulated array of shape {shape} and dtype {dtype}: {nbytes} bytes")
    memory: Any = (ctypes.c_char * nbytes).from_address(address)
    weakref.finalize(memory, runtime().gpuconv_release, address).atexit = False
    return np.ndarray.__new__(EmulatedArray, shape, dtype, buffer=memory)


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> EmulatedArray:
    """A new array of unwritten elements: NaN for floats, bytes 0xcd for integers."""
    return _allocate(shape, dtype, None)


def zeros(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> EmulatedArray:
    """A new array of zeros."""
    forbid("zeros")
    return _allocate(shape, dtype, 0)


def asarray(x: object, dtype: DTypeLike | None = None) -> EmulatedArray:
    """`x` on the emulated device: `x` itself if it is already there with this dtype, else a copy."""
    dtype = None if dtype is None else as_numeric("an array", dtype)
    if isinstance(x, EmulatedArray) and dtype in (None, x.dtype):
        return x
    forbid("asarray of a host array")
    host = np.asarray(x, dtype)
    array = empty(host.shape, host.dtype)
    array.view(np.ndarray)[...] = host
    return array
