"""Activations by our kernels, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpuconv import activations, ops
from gpuconv.torch.operators import operator
from gpuconv.torch.tensors import Context, nchw, nhwc, run
from gpuconv.types import Array


def _is_nhwc(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _elementwise(op: Callable[..., Array], *tensors: Tensor) -> Tensor:
    """Run an op in the layout of the first tensor."""
    return nchw(run(op, *map(nhwc, tensors))) if _is_nhwc(tensors[0]) else run(op, *tensors)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """The operator of an elementwise op, whose backward reads the output or the input."""

    def like(x: Tensor, *_: object) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last if _is_nhwc(x) else torch.contiguous_format)

    @operator(name, "(Tensor x) -> Tensor", like)
    def forward(x: Tensor) -> Tensor:
        return _elementwise(getattr(ops, name), x)

    @operator(f"{name}_backward", "(Tensor dy, Tensor kept) -> Tensor", like)
    def backward(dy: Tensor, kept: Tensor) -> Tensor:
        return _elementwise(getattr(ops, f"{name}_backward"), dy, kept)

    def keep(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0] if activations.ACTIVATIONS[name].saves_input else output)

    forward.register_autograd(lambda ctx, dy: backward(dy, *ctx.saved_tensors), setup_context=keep)
    return forward


ACTIVATIONS = {
    name: _activation(name) for name in ("relu", "relu6", "elu", "sigmoid", "tanh", "gelu", "silu", "hard_swish")
}
