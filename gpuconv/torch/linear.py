"""The linear layer by our kernels, and its gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpuconv import ops
from gpuconv.torch.expect import expect_axes, wrong_tensor_error
from gpuconv.torch.operators import operator
from gpuconv.torch.tensors import Context, autocast, run


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ w.T + bias, as in `torch.nn.functional.linear`, computed by `gpuconv.ops.linear`.

    Args:
        x: (..., in_features), float64, float32, float16 or bfloat16.
        w: (out_features, in_features), of x's dtype.
        bias: (out_features,), of x's dtype, or None.

    Returns:
        y, (..., out_features), of x's dtype (inside `torch.autocast`, of autocast's dtype).

    Raises:
        TypeError, ValueError: An argument is not a tensor, or its shape, dtype or device does not fit.
    """
    expect_axes(2, w=w)
    if bias is not None:
        expect_axes(1, bias=bias)
    if not isinstance(x, Tensor) or not x.ndim:
        raise wrong_tensor_error("x", "(..., in_features)", x)
    x, w, bias = autocast(x, w, bias)
    return torch.ops.gpuconv.linear(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w, bias).reshape(
        *x.shape[:-1], w.shape[0]
    )


@operator(
    "linear", "(Tensor x, Tensor w, Tensor? bias) -> Tensor", lambda x, w, bias: x.new_empty(x.shape[0], w.shape[0])
)
def _linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return run(ops.linear, x, w, bias)


@operator("linear_dgrad", "(Tensor dy, Tensor w) -> Tensor", lambda dy, w: dy.new_empty(dy.shape[0], w.shape[1]))
def _linear_dgrad(dy: Tensor, w: Tensor) -> Tensor:
    return run(ops.linear_dgrad, dy, w)


@operator("linear_wgrad", "(Tensor dy, Tensor x) -> Tensor", lambda dy, x: dy.new_empty(dy.shape[1], x.shape[1]))
def _linear_wgrad(dy: Tensor, x: Tensor) -> Tensor:
    return run(ops.linear_wgrad, dy, x)


def _keep_linear(ctx: Context, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:2])


def _linear_backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = torch.ops.gpuconv.linear_dgrad(dy, w) if needs[0] else None
    dw = torch.ops.gpuconv.linear_wgrad(dy, x) if needs[1] else None
    db = torch.ops.gpuconv.bias_grad(dy) if needs[2] else None
    return dx, dw, db


_linear.register_autograd(_linear_backward, setup_context=_keep_linear)
