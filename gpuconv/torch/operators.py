"""PyTorch operators in the namespace `gpuconv`, and the shapes of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def operator(
    name: str, schema: str, fake: Callable[..., object]
) -> Callable[[Callable[..., object]], torch.library.CustomOpDef]:
    """A decorator that registers a function as the operator gpuconv::name. fake: returns unwritten outputs of the right
    shapes, for PyTorch's shape inference."""

    def register(function: Callable[..., object]) -> torch.library.CustomOpDef:
        registered = torch.library.custom_op(f"gpuconv::{name}", function, mutates_args=(), schema=schema)
        registered.register_fake(fake)
        return registered

    return register


def empty_volume(like: Tensor, *shape: int) -> Tensor:
    """A volume with the strides that the kernels produce, for PyTorch's shape inference."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def window_count(size: int, kernel: int, stride: int, both_paddings: int, dilation: int = 1) -> int:
    """The number of windows along an axis. both_paddings: the sum of the padding on its two sides."""
    return (size + both_paddings - dilation * (kernel - 1) - 1) // stride + 1
