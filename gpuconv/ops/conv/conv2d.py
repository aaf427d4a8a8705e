"""Convolution."""

from __future__ import annotations

from typing import Unpack

from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import forward_problem
from gpuconv.ops.expect import expect_activation, expect_conv_algorithm, expect_out
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window


@op("conv2d_fprop.cu")
def conv2d(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: str | None = None,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
) -> ArrayT:
    """Cross-correlation of a volume with a filter bank, fprop.

    y[n, p, q, k] = act(bias[k] + sum over r, s, c of x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]
    * w[k, r, s, c]), where x is zero outside its border and filter k reads the channels of its own group.

    Args:
        x: (N, H, W, C), any float dtype.
        w: (K, R, S, C // groups), of x's dtype.
        bias: (K,), of x's dtype; None adds nothing.
        stride: Pixels from one window to the next: a number or (height, width), at least 1.
        padding: Zeros around the input: a number, (height, width), ((top, bottom), (left, right)), "same" (only at
            stride 1) or "valid".
        dilation: Pixels from one tap to the next: a number or (height, width), at least 1.
        groups: The number of groups of channels and filters; it divides both.
        activation: None, or the name of an activation op, which is applied with its defaults.
        fit: "floor", "exact" or "cover": what happens where windows do not tile the padded input (see
            `gpuconv.ops`).
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        y: (N, P, Q, K), of x's dtype.

    Raises:
        ValueError: Sizes do not fit each other, a window is larger than the padded input, or fit="exact" and
            windows do not tile it.
        ValueError: algo names no algorithm, or one that cannot compute this problem.
        TypeError: Arrays of different dtypes or devices, or tf32 with another dtype than float32.
    """
    backend = backend_of(x=x, w=w, optional=dict(bias=bias, out=out))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, epilogue, algo, tf32 = _check_conv2d(
        x, w, bias, out, activation=activation, algo=algo, tf32=tf32, **window
    )
    x, w, bias = copy_if_overlapping([out], x, w, bias)
    return backend.conv.conv2d(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=out)


@remembered
def _check_conv2d(
    x: Array,
    w: Array,
    bias: Array | None,
    out: Array | None,
    *,
    activation: str | None,
    algo: object,
    tf32: object,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    problem = forward_problem(x, w, bias, **window)
    epilogue = Epilogue.of(expect_activation(activation))
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "fprop")
    expect_out(out, problem.y_shape, x.dtype)
    return problem, epilogue, algo, tf32
