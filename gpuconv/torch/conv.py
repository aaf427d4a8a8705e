"""Convolution by our kernels, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpuconv import ops
from gpuconv.arguments import integer, pair
from gpuconv.torch.expect import expect_axes
from gpuconv.torch.operators import empty_volume, operator, window_count
from gpuconv.torch.tensors import Context, autocast, nchw, nhwc, run
from gpuconv.types import Array, Options, Padding, Size
from gpuconv.window_sizes import padding_pairs


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of `torch.nn.functional.conv2d`, computed by `gpuconv.ops.conv2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        w: Filters, (K, C // groups, R, S), of x's dtype.
        bias: (K,), of x's dtype, or None.
        stride, dilation: In pixels, above 0: one number, or (vertical, horizontal).
        padding: Zeros around x, in pixels: one number, (vertical, horizontal), ((top, bottom), (left, right)), "valid",
            or at stride 1 "same".
        groups: The number of groups, which divides C and K.

    Returns:
        y, (N, K, P, Q), of x's dtype (inside `torch.autocast`, of autocast's dtype), in channels_last memory.

    Raises:
        TypeError, ValueError: An argument is not a tensor, or its shape, dtype or device does not fit.
    """
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    expect_axes(4, x=x, w=w)
    if bias is not None:
        expect_axes(1, bias=bias)
    groups = integer("groups", groups, 1)
    (top, bottom), (left, right) = padding_pairs(padding, (int(w.shape[2]), int(w.shape[3])), stride, dilation)
    window = stride, [top, bottom, left, right], dilation, groups
    return torch.ops.gpuconv.conv2d(*autocast(x, w, bias), *window)


_CONV = "int[] stride, int[] padding, int[] dilation, int groups"

Window = tuple[Sequence[int], Sequence[int], Sequence[int], int]  # in the form of _CONV


def _conv_options(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> Options:
    top, bottom, left, right = padding
    return dict(stride=tuple(stride), padding=((top, bottom), (left, right)), dilation=tuple(dilation), groups=groups)


def _conv_shape(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    top, bottom, left, right = padding
    p = window_count(x.shape[2], w.shape[2], stride[0], top + bottom, dilation[0])
    q = window_count(x.shape[3], w.shape[3], stride[1], left + right, dilation[1])
    return empty_volume(x, x.shape[0], w.shape[0], p, q)


@operator("conv2d", f"(Tensor x, Tensor w, Tensor? bias, {_CONV}) -> Tensor", _conv_shape)
def _conv2d(x: Tensor, w: Tensor, bias: Tensor | None, *window: *Window) -> Tensor:
    return nchw(run(ops.conv2d, nhwc(x), nhwc(w), bias, **_conv_options(*window)))


@operator(
    "conv2d_dgrad",
    f"(Tensor dy, Tensor w, SymInt[] input_shape, {_CONV}) -> Tensor",
    lambda dy, w, input_shape, *window: empty_volume(dy, *input_shape),
)
def _conv2d_dgrad(dy: Tensor, w: Tensor, input_shape: Sequence[int], *window: *Window) -> Tensor:
    n, c, h, width = input_shape
    return nchw(run(ops.conv2d_dgrad, nhwc(dy), nhwc(w), input_shape=(n, h, width, c), **_conv_options(*window)))


@operator(
    "conv2d_wgrad",
    f"(Tensor dy, Tensor x, Tensor w, {_CONV}) -> Tensor",
    lambda dy, x, w, *window: empty_volume(dy, *w.shape),
)
def _conv2d_wgrad(dy: Tensor, x: Tensor, w: Tensor, *window: *Window) -> Tensor:
    def wgrad(dy: Array, x: Array) -> Array:
        return ops.conv2d_wgrad(dy, x, kernel_size=(w.shape[2], w.shape[3]), **_conv_options(*window))

    return nchw(run(wgrad, nhwc(dy), nhwc(x)))


@operator("bias_grad", "(Tensor dy) -> Tensor", lambda dy: dy.new_empty(dy.shape[1]))
def _bias_grad(dy: Tensor) -> Tensor:
    return run(ops.bias_grad, nhwc(dy) if dy.ndim == 4 else dy)


def _keep_conv(ctx: Context, inputs: tuple[Any, ...], output: object) -> None:
    x, w, _, *ctx.window = inputs
    ctx.save_for_backward(x, w)


def _conv_backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = torch.ops.gpuconv.conv2d_dgrad(dy, w, x.shape, *ctx.window) if needs[0] else None
    dw = torch.ops.gpuconv.conv2d_wgrad(dy, x, w, *ctx.window) if needs[1] else None
    db = torch.ops.gpuconv.bias_grad(dy) if needs[2] else None
    return dx, dw, db, None, None, None, None


_conv2d.register_autograd(_conv_backward, setup_context=_keep_conv)
