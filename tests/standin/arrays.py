"""Arrays in device memory, with as much of CuPy's ndarray as gpuconv uses."""

from __future__ import annotations

import ctypes
import functools
import math
import types
from typing import Any

import numpy as np

from tests.standin.machine import current
from tests.standin.memory import MemoryPointer, allocate
from tests.standin.streams import Device, get_current_stream


def array_at(address: int, shape, strides, dtype: np.dtype) -> np.ndarray:
    """A NumPy array over the memory at an address."""
    before, after = 0, 1  # bytes on both sides of the address; these are enough for an array without elements
    if all(shape):
        reach = [stride * (size - 1) for stride, size in zip(strides, shape)]
        before, after = -sum(min(0, r) for r in reach), sum(max(0, r) for r in reach) + dtype.itemsize
    memory = (ctypes.c_char * (before + after)).from_address(address - before)
    if dtype.kind == "V":  # NumPy makes no array of bfloat16 over a buffer
        return np.ndarray(shape, np.uint16, memory, before, strides).view(dtype)
    return np.ndarray(shape, dtype, memory, before, strides)


class ndarray:
    """dtype, shape and strides over memory of the device that was current when it was allocated."""

    __hash__ = None  # type: ignore[assignment]  # as CuPy's

    def __init__(self, shape, dtype=float, memptr=None, strides=None) -> None:
        self.shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)
        self.size = math.prod(self.shape)
        self.ndim, self.itemsize, self.nbytes = len(self.shape), self.dtype.itemsize, self.size * self.dtype.itemsize
        self.strides = tuple(strides) if strides is not None else _packed_strides(self.shape, self.itemsize)
        self.data = memptr if memptr is not None else allocate(self.nbytes)

    @property
    def device(self) -> Device:
        return Device(self.data.device_id)

    @functools.cached_property
    def flags(self):
        return types.SimpleNamespace(c_contiguous=bool(self._host().flags.c_contiguous))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": self.strides,
            "version": 3,
            "stream": get_current_stream().ptr or 1,
        }

    def _location(self) -> tuple[Any, ...]:
        return self.data.ptr, self.shape, self.strides, self.dtype

    def _host(self) -> np.ndarray:
        return array_at(*self._location())

    def _view(self, host: np.ndarray) -> ndarray:
        pointer = MemoryPointer.__new__(MemoryPointer)
        pointer.mem, pointer.device_id = self.data.mem, self.data.device_id
        pointer.ptr = host.ctypes.data if host.size else self.data.ptr
        return ndarray(host.shape, host.dtype, pointer, host.strides)

    def _expect_current(self) -> None:
        home, now = self.data.device_id, current().device
        if home != now:
            raise ValueError(
                f"The device where the array resides ({home}) is different from the current device ({now}). Peer "
                "access is unavailable between these devices."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> ndarray:
        return self._view(self._host()[index if isinstance(index, tuple) else (index,)])

    def __setitem__(self, index, value) -> None:
        target = self if index is Ellipsis else self[index]
        target._expect_current()
        location = target._location()
        if isinstance(value, ndarray):
            value._expect_current()
            source = value._location()
            get_current_stream().queue.push(lambda: _assign(location, array_at(*source)))
        elif isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        else:
            get_current_stream().queue.push(lambda: _assign(location, value))

    def fill(self, value) -> None:
        self[...] = value

    def reshape(self, *shape) -> ndarray:
        shape = shape[0] if len(shape) == 1 else shape
        host = self._host()
        view = host.reshape(shape)
        if not view.size or np.shares_memory(view, host):
            return self._view(view)
        return self.copy().reshape(shape)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def transpose(self, *axes) -> ndarray:
        return self._view(self._host().transpose(*axes))

    def view(self, dtype) -> ndarray:
        return self._view(self._host().view(dtype))

    def copy(self) -> ndarray:
        return self.astype(self.dtype)

    def __deepcopy__(self, memo) -> ndarray:
        with self.device:
            return self.copy()

    def __reduce__(self):
        return asarray, (self.get(),)  # so it is unpickled on the device that is then the current one

    def astype(self, dtype, copy: bool = True) -> ndarray:
        self._expect_current()
        if not copy and self.dtype == dtype:
            return self
        result = ndarray(self.shape, dtype)
        result[...] = self
        return result

    def get(self) -> np.ndarray:
        copies: list[np.ndarray] = []
        with Device(self.data.device_id):
            stream = get_current_stream()
            if not stream.is_capturing():
                location = self._location()
                stream.queue.push(lambda: copies.append(array_at(*location).copy()))
            stream.synchronize()
        return copies[0]

    def __array__(self, *_, **__) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.data.device_id


ndarray.__module__ = "cupy"


def _assign(location: tuple[Any, ...], value) -> None:
    array_at(*location)[...] = value


def _packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def empty(shape, dtype=float) -> ndarray:
    return ndarray(shape, dtype)


def zeros(shape, dtype=float) -> ndarray:
    array = ndarray(shape, dtype)
    array.data.memset_async(0, array.nbytes)
    return array


def ones(shape, dtype=float) -> ndarray:
    array = ndarray(shape, dtype)
    array.fill(1)
    return array


def asarray(x, dtype=None) -> ndarray:
    """A device array is returned as it is, or converted to dtype. A host array is copied to the device. The caller may
    change the host array after the call, because its numbers are read during the call; CuPy copies them to pinned
    memory."""
    if isinstance(x, ndarray):
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    host = np.array(x, dtype, order="C")
    if host.dtype.byteorder == ">":  # CuPy copies the bytes as they are
        host = host.view(host.dtype.newbyteorder("="))
    array = ndarray(host.shape, host.dtype)
    location = array._location()
    get_current_stream().queue.push(lambda: _assign(location, host))
    return array


def asnumpy(x: ndarray) -> np.ndarray:
    return x.get()


def from_dlpack(x) -> ndarray:
    """Import an object of a test, whose `standin_dlpack(stream)` makes the stream wait and returns the array."""
    return x.standin_dlpack(get_current_stream())
