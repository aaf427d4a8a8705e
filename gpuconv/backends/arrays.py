"""Creates arrays on a device, copies them between devices, and fills them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.adapters import adapter_of, resolve
from gpuconv.devices import MASKED, Device, device_of, device_or_none, gpu_name, is_on, kind_of, masked_array_error
from gpuconv.dtypes import as_dtype, as_numeric, is_numeric
from gpuconv.types import Array

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def asarray(x: object, device: str | None = None, dtype: DTypeLike | None = None) -> Any:  # noqa: ANN401 - an array of the device's library
    """`x` as an array on `device`, without a copy if none is needed.

    x: an array of any device, anything that supports DLPack (such as a PyTorch tensor) or `__cuda_array_interface__`,
    or anything `numpy.asarray` takes. device: a device's name, or `y.device` of an array y; by default where x is, or
    "numpy" for anything that is not an array. dtype: by default x's.

    An array in the other byte order is converted to the machine's; a subclass of NumPy's array becomes a plain view.
    Raises TypeError for a masked array, for objects, text, dates and records, and for numbers of more than 64 bits, or
    128 bits if they are complex. Raises as `resolve` does, too.

    `torch.from_dlpack(x)` and the like convert in the other direction: arrays of every device support DLPack, but
    NumPy exports no bfloat16, so "numpy" and "emulated" do not either.
    """
    array = _wrap_foreign(x)
    dtype = None if dtype is None else as_numeric("dtype", dtype)
    device = resolve(device) if device is not None else device_or_none(array) or "numpy"
    if not (Device.named(device).runs_kernels and is_on(array, device)):
        host = to_numpy(array)
        array = adapter_of(device).from_host(host if dtype is None else host.astype(dtype, copy=False))
    if dtype is None or array.dtype == dtype:
        return array
    with current_device_of(array):
        return array.astype(dtype)


_DLPACK_CUDA = 2  # kDLCUDA of dlpack.h


def _wrap_foreign(x: object, name: str = "the array") -> Any:  # noqa: ANN401 - an array, or any other object
    """Another library's array in GPU memory, or PyTorch's bfloat16 tensor in host memory, as an array of gpuconv that
    shares its memory; anything else unchanged. Raises TypeError for a masked array. name: for messages."""
    source = device_or_none(x)
    if source == MASKED or _holds_masked(x):
        raise masked_array_error(name)
    if source is not None:
        return x
    if hasattr(x, "__dlpack_device__"):
        kind, index = x.__dlpack_device__()
        if kind == _DLPACK_CUDA:
            return adapter_of(gpu_name(index)).from_dlpack(x)
        if str(getattr(x, "dtype", None)) == "torch.bfloat16" and hasattr(x, "detach"):
            tensor: Any = x  # NumPy cannot import this dtype through DLPack
            if tensor.requires_grad:  # PyTorch refuses these in the other dtypes
                raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
            return tensor.view(sys.modules["torch"].int16).numpy().view(as_dtype("bfloat16"))
        return x
    return adapter_of("cuda").from_cuda_array_interface(x) if hasattr(x, "__cuda_array_interface__") else x


def _holds_masked(x: object) -> bool:
    """Whether a list, or a list inside it, contains a masked array."""
    return isinstance(x, (list, tuple)) and any(kind_of(row) == MASKED or _holds_masked(row) for row in x)


def to_numpy(x: object, name: str = "the array") -> np.ndarray:
    """`x` as a NumPy array: `x` itself if it is one, a copy if it is in device memory, else what NumPy makes of it.

    Byte order, subclasses and errors: as in `asarray`. name: for messages.
    """
    x = _wrap_foreign(x, name)
    source = device_or_none(x)
    if source is None:
        host = np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    else:
        host = adapter_of(source).to_numpy(x)
    host = host if type(host) is np.ndarray else host.view(np.ndarray)
    return host if is_numeric(host.dtype) else host.astype(as_numeric(name, host.dtype))


def host_copies(arrays: Mapping[str, object], dtype: DTypeLike | None = None) -> dict[str, np.ndarray]:
    """Copies of named `arrays` in host memory. dtype: by default that of each."""
    return {name: _host_copy(array, dtype) for name, array in arrays.items()}


def _host_copy(array: object, dtype: DTypeLike | None) -> np.ndarray:
    host, device = to_numpy(array), device_or_none(array)
    is_copy = device is not None and Device.named(device).runs_kernels
    return host.astype(host.dtype if dtype is None else dtype, copy=not is_copy)


def constant(x: np.ndarray, device: str) -> Array:
    """A copy of a host array on a device, for a cache. It is complete on return, so any stream may read it."""
    adapter = adapter_of(device)
    return adapter.constant(x) if hasattr(adapter, "constant") else adapter.from_host(x)


def empty(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Array:
    """An uninitialized array on a device. Raises as `resolve` does, and TypeError for a dtype of anything but
    bools and numbers of at most 64 bits, or 128 bits if they are complex."""
    return adapter_of(device).empty(tuple(shape), as_numeric("an array", dtype))


def zeros(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Array:
    """An array of zeros on a device. Raises as `empty` does."""
    return adapter_of(device).zeros(tuple(shape), as_numeric("an array", dtype))


def assign(array: Array, value: object) -> None:
    """``array[...] = value`` on the array's own device. value: a number, a host array, or an array of that device."""
    with current_device_of(array):
        array[...] = value if np.isscalar(value) else asarray(value, device_of(array))


def current_device_of(array: Array) -> AbstractContextManager[object]:
    """A context that makes an array's device CUDA's current one, as CuPy requires; does nothing for other devices."""
    return array.device if kind_of(array) == "cuda" else nullcontext()
