"""Pools by our kernels, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpuconv import ops
from gpuconv.arguments import flag, pair
from gpuconv.torch.expect import expect_axes
from gpuconv.torch.operators import empty_volume, operator, window_count
from gpuconv.torch.tensors import Context, nchw, nhwc, run
from gpuconv.types import Options, Pair, Size


def max_pool2d(x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """The largest value of each window, as in `torch.nn.functional.max_pool2d`, computed by `gpuconv.ops.max_pool2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        kernel_size: In pixels: one number, or (height, width); a window has at most 256 pixels.
        stride: In pixels, above 0: one number, or (vertical, horizontal); by default the kernel size.
        padding: Pixels around x that never win: one number, or (vertical, horizontal).

    Returns:
        y, (N, C, P, Q), of x's dtype, in channels_last memory.

    Raises:
        TypeError, ValueError: x is not a tensor with four axes, a window is too large, or an option is not accepted.
    """
    expect_axes(4, x=x)
    return torch.ops.gpuconv.max_pool2d(x, *_window(kernel_size, stride, padding))[0]


def avg_pool2d(
    x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, count_include_pad: bool = True
) -> Tensor:
    """The mean of each window, as in `torch.nn.functional.avg_pool2d`, computed by `gpuconv.ops.avg_pool2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        kernel_size: In pixels: one number, or (height, width).
        stride: In pixels, above 0: one number, or (vertical, horizontal); by default the kernel size.
        padding: Zeros around x, in pixels: one number, or (vertical, horizontal).
        count_include_pad: Whether the mean counts the padding's zeros.

    Returns:
        y, (N, C, P, Q), of x's dtype, in channels_last memory.

    Raises:
        TypeError, ValueError: x is not a tensor with four axes, or an option is not accepted.
    """
    expect_axes(4, x=x)
    counted = flag("count_include_pad", count_include_pad)
    return torch.ops.gpuconv.avg_pool2d(x, *_window(kernel_size, stride, padding), counted)


def _window(kernel_size: Size, stride: Size | None, padding: Size) -> tuple[Pair, Pair, Pair]:
    kernel = pair("kernel_size", kernel_size, 1)
    return kernel, kernel if stride is None else pair("stride", stride, 1), pair("padding", padding, 0)


_POOL = "int[] kernel_size, int[] stride, int[] padding"


def _pool_options(kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Options:
    return dict(kernel_size=tuple(kernel_size), stride=tuple(stride), padding=tuple(padding))


def _pool_shape(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], *_: object
) -> Tensor:
    p, q = (window_count(x.shape[2 + axis], kernel_size[axis], stride[axis], 2 * padding[axis]) for axis in (0, 1))
    return empty_volume(x, *x.shape[:2], p, q)


def _max_pool_shape(x: Tensor, *window: Sequence[int]) -> tuple[Tensor, Tensor]:
    y = _pool_shape(x, *window)
    return y, torch.empty_like(y, dtype=torch.uint8)


@operator("max_pool2d", f"(Tensor x, {_POOL}) -> (Tensor, Tensor)", _max_pool_shape)
def _max_pool2d(x: Tensor, *window: Sequence[int]) -> tuple[Tensor, Tensor]:
    y, argmax = run(ops.max_pool2d, nhwc(x), **_pool_options(*window))
    if argmax.dtype != torch.uint8:
        raise ValueError(f"a window of a max pool has at most 256 pixels, received kernel_size {window[0]}")
    return nchw(y), nchw(argmax)


@operator(
    "max_pool2d_backward",
    f"(Tensor dy, Tensor argmax, SymInt[] input_shape, {_POOL}) -> Tensor",
    lambda dy, argmax, input_shape, *window: empty_volume(dy, *input_shape),
)
def _max_pool2d_backward(dy: Tensor, argmax: Tensor, input_shape: Sequence[int], *window: Sequence[int]) -> Tensor:
    n, c, h, w = input_shape
    options = _pool_options(*window) | dict(input_shape=(n, h, w, c))
    return nchw(run(ops.max_pool2d_backward, nhwc(dy), nhwc(argmax), **options))


def _keep_max_pool(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.window = inputs
    ctx.input_shape = x.shape
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_pool_backward(ctx: Context, dy: Tensor, _: object) -> tuple[Tensor | None, ...]:
    (argmax,) = ctx.saved_tensors
    return torch.ops.gpuconv.max_pool2d_backward(dy, argmax, ctx.input_shape, *ctx.window), None, None, None


_max_pool2d.register_autograd(_max_pool_backward, setup_context=_keep_max_pool)


@operator("avg_pool2d", f"(Tensor x, {_POOL}, bool count_include_pad) -> Tensor", _pool_shape)
def _avg_pool2d(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], count_include_pad: bool
) -> Tensor:
    options = _pool_options(kernel_size, stride, padding) | dict(count_include_pad=count_include_pad)
    return nchw(run(ops.avg_pool2d, nhwc(x), **options))


@operator(
    "avg_pool2d_backward",
    f"(Tensor dy, SymInt[] input_shape, {_POOL}, bool count_include_pad) -> Tensor",
    lambda dy, input_shape, *window: empty_volume(dy, *input_shape),
)
def _avg_pool2d_backward(
    dy: Tensor,
    input_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    count_include_pad: bool,
) -> Tensor:
    n, c, h, w = input_shape
    options = _pool_options(kernel_size, stride, padding) | dict(count_include_pad=count_include_pad)
    return nchw(run(ops.avg_pool2d_backward, nhwc(dy), input_shape=(n, h, w, c), **options))


def _keep_avg_pool(ctx: Context, inputs: tuple[Any, ...], output: object) -> None:
    x, *ctx.window = inputs
    ctx.input_shape = x.shape


def _avg_pool_backward(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.gpuconv.avg_pool2d_backward(dy, ctx.input_shape, *ctx.window)
    return dx, None, None, None, None


_avg_pool2d.register_autograd(_avg_pool_backward, setup_context=_keep_avg_pool)
