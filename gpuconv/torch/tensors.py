"""Passes PyTorch's tensors to our ops and their results back, with shared memory where possible. This file chooses the
device and the stream, and converts layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from gpuconv import backends
from gpuconv.devices import Device
from gpuconv.interop.torch import as_tensor, host_array
from gpuconv.names import canonical
from gpuconv.types import Array

_cpu_device: ContextVar[str] = ContextVar("the device that CPU tensors run on", default="numpy")


@contextlib.contextmanager
def cpu_device(name: str | torch.device) -> Iterator[None]:
    """A context in which operators on CPU tensors run on another device; backward too, if called inside.

    Args:
        name: "numpy", the device outside of such a context ("cpu", also as a torch.device, is another name for it), or
            "emulated".

    Raises ValueError for another device, and TypeError for anything else.
    """
    given = str(name) if isinstance(name, torch.device) else name
    is_cpu = isinstance(given, str) and given.lower() == "cpu"
    token = _cpu_device.set(canonical("device of CPU tensors", "numpy" if is_cpu else given, ("numpy", "emulated")))
    try:
        yield
    finally:
        _cpu_device.reset(token)


Context = Any  # what PyTorch passes from forward to backward; we add attributes


def run(op: Callable[..., Any], *tensors: Tensor | None, **options: Any) -> Any:  # noqa: ANN401 - a tensor or several
    """Run one of our ops on tensors in our layout. Returned arrays become tensors, which share their memory except on
    "emulated"."""
    with _current_stream(tensors[0]):
        result = op(*(None if each is None else _array(each) for each in tensors), **options)
        return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)


def _array(tensor: Tensor) -> Array:
    if tensor.layout != torch.strided:
        raise TypeError(f"tensors must be dense, received one of layout {tensor.layout}; tensor.to_dense() makes one")
    tensor = tensor.detach().contiguous()
    if tensor.device.type == "cuda":
        return backends.asarray(tensor)
    return backends.asarray(host_array(tensor, "a tensor"), _cpu_device.get())


def _tensor(array: Array) -> Tensor:
    if Device.named(backends.device_of(array)).on_gpu:
        return torch.from_dlpack(array)
    return as_tensor(backends.to_numpy(array))


def _current_stream(tensor: Tensor | None) -> contextlib.AbstractContextManager[object]:
    """A context in which CuPy uses PyTorch's current stream on the tensor's device."""
    if tensor is None or tensor.device.type != "cuda":
        return contextlib.nullcontext()
    import cupy

    stack = contextlib.ExitStack()
    stack.enter_context(cupy.cuda.Device(tensor.device.index))
    stack.enter_context(cupy.cuda.ExternalStream(torch.cuda.current_stream(tensor.device).cuda_stream))
    return stack


_CAST = (torch.float32, torch.float16, torch.bfloat16)  # what `torch.autocast` casts; float64 stays


def autocast(x: Tensor, w: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    """The tensors of a product, in the dtype of `torch.autocast` if it is on for x's device."""
    tensors, device = (x, w, bias), x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(each.to(dtype) if each is not None and each.dtype in _CAST else each for each in tensors)


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1)


def nchw(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2)
