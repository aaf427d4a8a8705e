"""Convolution followed by an activation and a pool, and the mask that their gradients take."""

from __future__ import annotations

from typing import Unpack

from gpuconv.activations import SAVE_INPUT
from gpuconv.backends import backend_of
from gpuconv.names import canonical
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import expect_pool, forward_problem
from gpuconv.ops.expect import expect_conv_algorithm, expect_out
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window


@op("conv2d_fprop.cu")
def conv2d_relu(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None = None,
    *,
    pool: int = 1,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: str | None = "relu",
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
) -> tuple[ArrayT, Array]:
    """relu(conv2d(...)) and the mask that the two gradients of conv2d take. With pool=2, a max_pool2d of 2 x 2 windows
    at stride 2 follows, which drops an odd last row and column; with activation=None the pooling follows the
    convolution directly. With an activation whose backward takes the activation's input, the op returns the
    activation's output and, instead of a mask, that input, conv2d(...).

    Args:
        x: (N, H, W, C), any float dtype.
        w: (K, R, S, C // groups), of x's dtype.
        bias: (K,), of x's dtype; None adds nothing.
        pool: 1, or 2 for the max pooling.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        activation: "relu"; None for no activation; or, without a pool, "gelu", "silu" or "hard_swish", with its op's
            defaults.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives y.

    Returns:
        y: (N, P, Q, K), or (N, P // 2, Q // 2, K) with pool=2.

        saved: With "gelu", "silu" or "hard_swish" the activation's input, rounded to y's dtype; y is computed from it.
        Otherwise the mask.

        mask: uint8, of y's shape but with groups * ceil(K / groups * pool**2 / 8) bytes in place of K values. It has
        one bit for each convolution output that y depends on: 1 where the gradient passes. With "relu" it passes
        only where the output is positive. With pool=2 it passes only where the output is the first maximum of its
        window. In the bytes of a group, bit i * pool**2 + j (bit 0 is the lowest of the first byte) belongs to the
        group's filter i and pixel j of the window, row-major. Unused bits are 0.

    Raises:
        ValueError, TypeError: As in conv2d; also another activation or pool, and pool=2 with "gelu", "silu" or
            "hard_swish", or where conv2d returns maps smaller than 2 x 2.
    """
    backend = backend_of(x=x, w=w, optional=dict(bias=bias, out=out))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, epilogue, algo, tf32 = _check_conv2d_relu(
        x, w, bias, out, activation=activation, pool=pool, algo=algo, tf32=tf32, **window
    )
    x, w, bias = copy_if_overlapping([out], x, w, bias)
    return backend.conv.conv2d_relu(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=out)


@remembered
def _check_conv2d_relu(
    x: Array,
    w: Array,
    bias: Array | None,
    out: Array | None,
    *,
    activation: str | None,
    pool: int,
    algo: object,
    tf32: object,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    problem = forward_problem(x, w, bias, **window)
    expect_out(out, expect_pool(pool, problem), x.dtype)
    if activation is not None:
        activation = canonical("activation of conv2d_relu", activation, ["relu", *SAVE_INPUT])
    saves_input = activation in SAVE_INPUT
    if saves_input and pool != 1:
        raise ValueError(f"a pool of conv2d_relu follows the activation relu or None, received {activation!r}")
    epilogue = Epilogue.of(activation, pool=int(pool), masked=not saves_input, saves_input=saves_input)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "fprop")
    return problem, epilogue, algo, tf32
