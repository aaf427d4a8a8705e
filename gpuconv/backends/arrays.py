"""Opens devices by their names; creates, moves and copies arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.devices import MASKED, Device, DeviceError, device_of, device_or_none, kind_of, masked_array_error
from gpuconv.dtypes import as_dtype, as_numeric, is_numeric
from gpuconv.names import one_line
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from gpuconv.backends.cuda.runtime.graph import CudaRecorder, EmulatedRecorder


def _adapter(device: str) -> Any:  # noqa: ANN401 - each device's adapter has methods that others lack
    """The adapter that creates arrays on a device. Raises as `resolve` does."""
    named = Device.named(str(device))
    if named.kind == "auto":
        return _choose_device()[0]
    if not named.runs_kernels:
        from gpuconv.backends.cpu.adapter import NumpyDevice

        return NumpyDevice()
    from gpuconv.backends.cuda.adapter import open_device

    return open_device(named)


def resolve(device: str) -> str:
    """The full name of a device, checked: "auto" becomes the device of `choose`, "cuda" becomes "cuda:0", "cpu" becomes
    "numpy".

    Raises ValueError for an unknown name (the nearest known one is named) and DeviceError, saying what is missing, for
    a device that is not available.
    """
    return _adapter(device).name


def choose(device: str = "auto") -> tuple[str, str]:
    """The full name of a device, and the reason for it in one line. "auto" is the first CUDA GPU if one works, else
    NumPy. Raises as `resolve` does."""
    if Device.named(device).kind != "auto":
        return resolve(device), "as you asked"
    chosen, why = _choose_device()
    return chosen.name, one_line(why)


def _choose_device() -> tuple[Any, str]:
    try:
        device = _adapter("cuda")
    except DeviceError as error:
        return _adapter("numpy"), f"no CUDA device: {error}"
    return device, device.description


def describe(device: str) -> str:
    """A one-line description of a device. Raises as `resolve` does."""
    return _adapter(device).description


def asarray(x: object, device: str | None = None, dtype: DTypeLike | None = None) -> Any:  # noqa: ANN401 - an array of the device's library
    """`x` as an array on `device`, without a copy if none is needed.

    x: an array of any device, anything that supports DLPack (such as a PyTorch tensor) or `__cuda_array_interface__`,
    or anything `numpy.asarray` takes. device: by default where x is, or "numpy" for anything that is not an array.
    dtype: by default x's.

    An array in the other byte order is converted to the machine's; a subclass of NumPy's array becomes a plain view.
    Raises TypeError for a masked array and for objects, text, dates and records, and the errors of `resolve`.
    `torch.from_dlpack(x)` and the like convert in the other direction: arrays of every device support DLPack.
    """
    array = _wrap_foreign(x)
    source = device_or_none(array)
    dtype = None if dtype is None else as_numeric("dtype", dtype)
    device = resolve(device) if device is not None else source or "numpy"
    if source != device or not Device.named(device).runs_kernels:
        host = to_numpy(array)
        array = _adapter(device).from_host(host if dtype is None else host.astype(dtype, copy=False))
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
            return _adapter(f"cuda:{index}").from_dlpack(x)
        if str(getattr(x, "dtype", None)) == "torch.bfloat16" and hasattr(x, "detach"):
            # NumPy cannot import this dtype through DLPack.
            return x.detach().view(sys.modules["torch"].int16).numpy().view(as_dtype("bfloat16"))
        return x
    return _adapter("cuda").from_cuda_array_interface(x) if hasattr(x, "__cuda_array_interface__") else x


def _holds_masked(x: object) -> bool:
    """Whether a list, or a list inside it, contains a masked array."""
    return isinstance(x, (list, tuple)) and any(kind_of(row) == MASKED or _holds_masked(row) for row in x)


def to_numpy(x: object, name: str = "the array") -> np.ndarray:
    """`x` as a NumPy array: `x` itself if it is one, else a copy from device memory, or what NumPy makes of it.

    Byte order, subclasses and errors: as in `asarray`. name: for messages.
    """
    x = _wrap_foreign(x, name)
    source = device_or_none(x)
    if source is None:
        host = np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    else:
        host = _adapter(source).to_numpy(x)
    host = host if type(host) is np.ndarray else host.view(np.ndarray)
    return host if is_numeric(host.dtype) else host.astype(as_numeric(name, host.dtype))


def empty(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Array:
    """An uninitialized array on a device. Raises as `resolve` does."""
    return _adapter(device).empty(tuple(shape), as_numeric("an array", dtype))


def zeros(shape: Sequence[int], dtype: DTypeLike, device: str = "numpy") -> Array:
    """An array of zeros on a device. Raises as `resolve` does."""
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
    """The name of a convolution's algorithm for each of "fprop", "dgrad" and "wgrad" on a device; {} on "numpy", which
    has only one. On a GPU "auto" is the fastest measured one, or the cost model's choice if nothing was measured yet.
    Each name is a `gpuconv.algorithms.Choice`: a string that also holds the proof, if "auto" chose an algorithm that
    the GPU had to prove first."""
    device = resolve(device)
    if not Device.named(device).runs_kernels:
        return {}
    from gpuconv.backends.cuda.ops.conv import chosen_algorithms

    return chosen_algorithms(device, problem, epilogue, as_dtype(dtype), algo=algo, tf32=tf32)


def assign(array: Array, value: object) -> None:
    """``array[...] = value`` on the array's own device. value: a number, a host array, or an array of that device."""
    with current_device_of(array):
        array[...] = value if np.isscalar(value) else asarray(value, device_of(array))


def current_device_of(array: Array) -> AbstractContextManager[object]:
    """A context that makes an array's device CUDA's current one, as CuPy requires; does nothing for other devices."""
    return array.device if kind_of(array) == "cuda" else nullcontext()


def synchronize(device: str = "numpy") -> None:
    """Wait until everything launched on a device is done; NumPy runs synchronously, so this does nothing there."""
    _adapter(device).synchronize()


def same_bits(device: str) -> AbstractContextManager[None]:
    """A context in which ops on a device give the same bits on any number of cores, and on every GPU of one compute
    capability. On "emulated" it does nothing: the order of a kernel's sums depends only on the shapes."""
    adapter = _adapter(device)
    return adapter.same_bits() if hasattr(adapter, "same_bits") else nullcontext()


def identity(device: str) -> str:
    """What determines the bits of a device's results, besides gpuconv: its name and, for "numpy", NumPy's version and
    number of threads; for others, their description."""
    adapter = _adapter(device)
    details = adapter.identity() if hasattr(adapter, "identity") else adapter.description
    return f"{adapter.name}: {details}"


def recorder(device: str) -> EmulatedRecorder | CudaRecorder:
    """The recorder that captures and replays work on a CUDA device or the emulated one (`cuda.runtime.graph`)."""
    return _adapter(device).recorder()
