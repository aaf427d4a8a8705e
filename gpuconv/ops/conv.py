"""Convolution and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from gpuconv.arguments import integer, pair
from gpuconv.backends import backend_of
from gpuconv.names import canonical
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_activation,
    expect_any_float,
    expect_apart,
    expect_bias,
    expect_bias_gradient,
    expect_conv_algorithm,
    expect_float,
    expect_mask,
    expect_out,
    expect_same_dtype,
    expect_shape,
    expect_volume_shape,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.ops.remembered import remembered
from gpuconv.problems import ACTIVATIONS, PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window

_SAVE_INPUT = [name for name, activation in ACTIVATIONS.items() if activation.saves_input]

__all__ = ["bias_grad", "conv2d", "conv2d_backward", "conv2d_dgrad", "conv2d_relu", "conv2d_wgrad"]


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
        padding: Zeros around the input: a number, (height, width), ((top, bottom), (left, right)), "same" or
            "valid".
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
) -> tuple[ArrayT, Any]:
    """relu(conv2d(...)) and the mask that the two gradients of conv2d take. With pool=2, a max_pool2d of 2 x 2 windows
    at stride 2 follows, which drops an odd last row and column; with activation=None the pooling follows the
    convolution directly. With an activation whose backward takes its input, the op returns that activation of
    conv2d(...), and conv2d(...) itself.

    Args:
        x: (N, H, W, C), any float dtype.
        w: (K, R, S, C // groups), of x's dtype.
        bias: (K,), of x's dtype; None adds nothing.
        pool: 1, or 2 for the max pooling.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        activation: "relu", or None for none; or "gelu", "silu" or "hard_swish" with its op's defaults, without a pool.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives y.

    Returns:
        y: (N, P, Q, K), or (N, P // 2, Q // 2, K) with pool=2.

        saved: With "gelu", "silu" or "hard_swish" the activation's input, rounded to y's dtype; y is computed from it.
        Otherwise the mask.

        mask: uint8 (N, P, Q, groups * bytes), with y's P and Q and bytes = ceil(K / groups * pool**2 / 8). It has
        one bit for each convolution output that y depends on: 1 where the gradient passes, that is, where the
        output is positive (with activation=None whatever its sign) and, with pool=2, is the first maximum of its
        window. In the bytes of a group, bit i * pool**2 + j (bit 0 is the lowest of the first byte) belongs to the
        group's filter i and pixel j of the window, row-major. Unused bits are 0.

    Raises:
        ValueError, TypeError: As in conv2d.
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
    expect_out(out, problem.pooled_shape(pool), x.dtype)
    if activation is not None:
        activation = canonical("activation of conv2d_relu", activation, ["relu", *_SAVE_INPUT])
    saves_input = activation in _SAVE_INPUT
    if saves_input and pool != 1:
        raise ValueError(f"a pool of conv2d_relu follows the activation relu or None, received {activation!r}")
    epilogue = Epilogue.of(activation, pool=int(pool), masked=not saves_input, saves_input=saves_input)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "fprop")
    return problem, epilogue, algo, tf32


@op("conv2d_dgrad.cu")
def conv2d_dgrad(
    dy: ArrayT,
    w: ArrayT,
    *,
    input_shape: Sequence[int],
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    mask: Array | None = None,
    pool: int = 1,
    out: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of conv2d with respect to x: dx[n, h, w, c] = sum of dy[n, p, q, k] * w[k, r, s, c] over all k and
    every (p, q, r, s) that reads (h, w).

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        w: (K, R, S, C // groups), of dy's dtype.
        input_shape: x's shape, (N, H, W, C).
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        mask: The mask that conv2d_relu or conv2d_batch_norm returned. dy is then the gradient of that op's output, and
            passes only where the mask has a 1.
        pool: The `pool` of that op; 2 needs the mask.
        out: Receives the result and must have its shape and dtype; by default a new array.
        accumulate: Add to out instead of overwriting it; sum and addition are rounded once.

    Returns:
        dx: (N, H, W, C), of dy's dtype.

    Raises:
        ValueError, TypeError: As in conv2d; also a dy or mask that is not of the shape that the forward op
            returned, and accumulate=True without out.
    """
    backend = backend_of(dy=dy, w=w, optional=dict(mask=mask, out=out))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, forward, algo, tf32 = _check_conv2d_dgrad(
        dy, w, mask, out, input_shape=input_shape, pool=pool, algo=algo, tf32=tf32, accumulate=accumulate, **window
    )
    dy, w, mask = copy_if_overlapping([out], dy, w, mask)
    return backend.conv.conv2d_dgrad(
        dy, w, problem, forward, mask=mask, algo=algo, tf32=tf32, out=out, accumulate=accumulate
    )


@remembered
def _check_conv2d_dgrad(
    dy: Array,
    w: Array,
    mask: Array | None,
    out: Array | None,
    *,
    input_shape: object,
    pool: int,
    algo: object,
    tf32: object,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    w_shape, x_shape = expect_float("w", w, "K R S C/groups"), expect_volume_shape("input_shape", input_shape)
    expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, w=w)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    forward = _forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.x_shape, dy.dtype)
    expect_accumulate(accumulate, out=out)
    algo, tf32 = expect_conv_algorithm(algo, tf32, dy.dtype, problem, forward, "dgrad")
    return problem, forward, algo, tf32


@op("conv2d_wgrad.cu")
def conv2d_wgrad(
    dy: ArrayT,
    x: ArrayT,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    mask: Array | None = None,
    pool: int = 1,
    out: ArrayT | None = None,
    db: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of conv2d with respect to w: dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k]
    * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c].

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        x: (N, H, W, C), of dy's dtype.
        kernel_size: (R, S), or a number for both.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        mask: The mask that conv2d_relu or conv2d_batch_norm returned. dy is then the gradient of that op's output, and
            passes only where the mask has a 1.
        pool: The `pool` of that op; 2 needs the mask.
        out: Receives dw; by default a new array.
        db: (K,); receives the bias gradient, the sum of dy (where the mask has a 1) over n, p, q; None does not compute
            it.
        accumulate: Add to out (and to db if it is given) instead of overwriting them.

    Returns:
        dw: (K, R, S, C // groups), of dy's dtype.

    Raises:
        ValueError, TypeError: As in conv2d_dgrad; also accumulate=True without out.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(mask=mask, out=out, db=db))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, forward, algo, tf32 = _check_conv2d_wgrad(
        dy, x, mask, out, db, kernel_size=kernel_size, pool=pool, algo=algo, tf32=tf32, accumulate=accumulate, **window
    )
    outputs = expect_apart(out=out, db=db)
    dy, x, mask = copy_if_overlapping(outputs, dy, x, mask)
    return backend.conv.conv2d_wgrad(
        dy, x, problem, forward, mask=mask, algo=algo, tf32=tf32, out=out, db=db, accumulate=accumulate
    )


@remembered
def _check_conv2d_wgrad(
    dy: Array,
    x: Array,
    mask: Array | None,
    out: Array | None,
    db: Array | None,
    *,
    kernel_size: object,
    pool: int,
    algo: object,
    tf32: object,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    x_shape, dy_shape = expect_float("x", x, "N H W C"), expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, x=x)
    w_shape = dy_shape[3], *pair("kernel_size", kernel_size, 1), x_shape[3] // integer("groups", window["groups"], 1)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    forward = _forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.w_shape, x.dtype)
    expect_bias_gradient(db, problem.k, problem.w_shape[3], x.dtype)
    expect_accumulate(accumulate, out=out)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, forward, "wgrad")
    return problem, forward, algo, tf32


@op("conv2d_wgrad.cu")  # and conv2d_dgrad.cu
def conv2d_backward(
    dy: ArrayT,
    x: ArrayT,
    w: ArrayT,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    mask: Array | None = None,
    pool: int = 1,
    out: ArrayT | None = None,
    accumulate_dx: bool = False,
    dw: ArrayT | None = None,
    db: ArrayT | None = None,
    accumulate: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """All gradients of conv2d: conv2d_dgrad and conv2d_wgrad in one call, so that a backend may read dy only once.

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        x: (N, H, W, C), of dy's dtype.
        w: (K, R, S, C // groups), of dy's dtype.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        mask: The mask that conv2d_relu or conv2d_batch_norm returned. dy is then the gradient of that op's output, and
            passes only where the mask has a 1.
        pool: The `pool` of that op; 2 needs the mask.
        out: Receives dx; by default a new array.
        accumulate_dx: Add dx to out instead of overwriting it, as in conv2d_dgrad.
        dw: Receives the gradient of w; by default a new array.
        db: (K,); receives the bias gradient, the sum of dy (where the mask has a 1) over n, p, q; None does not compute
            it.
        accumulate: Add to dw (and to db if it is given) instead of overwriting them.

    Returns:
        dx and dw, of the shapes of x and w.

    Raises:
        ValueError, TypeError: As in conv2d_dgrad; also accumulate=True without dw, and
            accumulate_dx=True without out.
    """
    backend = backend_of(dy=dy, x=x, w=w, optional=dict(mask=mask, out=out, dw=dw, db=db))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, forward, algos, tf32 = _check_conv2d_backward(
        dy,
        x,
        w,
        mask,
        out,
        dw,
        db,
        pool=pool,
        algo=algo,
        tf32=tf32,
        accumulate_dx=accumulate_dx,
        accumulate=accumulate,
        **window,
    )
    outputs = expect_apart(out=out, dw=dw, db=db)
    dy, x, w, mask = copy_if_overlapping(outputs, dy, x, w, mask)
    return backend.conv.conv2d_backward(
        dy,
        x,
        w,
        problem,
        forward,
        mask=mask,
        algos=algos,
        tf32=tf32,
        out=out,
        accumulate_dx=accumulate_dx,
        dw=dw,
        db=db,
        accumulate=accumulate,
    )


@remembered
def _check_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    mask: Array | None,
    out: Array | None,
    dw: Array | None,
    db: Array | None,
    *,
    pool: int,
    algo: object,
    tf32: object,
    accumulate_dx: bool,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, tuple[str, str], bool]:
    x_shape, w_shape = expect_float("x", x, "N H W C"), expect_float("w", w, "K R S C/groups")
    expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, x=x, w=w)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    forward = _forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.x_shape, x.dtype)
    expect_out(dw, problem.w_shape, w.dtype, "dw")
    expect_bias_gradient(db, problem.k, problem.w_shape[3], x.dtype)
    expect_accumulate(accumulate_dx, "accumulate_dx", out=out)
    expect_accumulate(accumulate, dw=dw)
    dgrad, of_tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, forward, "dgrad")
    wgrad, _ = expect_conv_algorithm(algo, tf32, x.dtype, problem, forward, "wgrad")
    return problem, forward, (dgrad, wgrad), of_tf32


@op("bias_grad.cu")
def bias_grad(
    dy: ArrayT,
    saved: ArrayT | None = None,
    *,
    activation: str | None = None,
    out: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of a bias: the sum of dy over all axes but the last. If an activation follows the bias, the sum is
    that of the activation's gradient, which is not stored.

    Args:
        dy: (..., K), of rank 2 or more, any float dtype; with an activation the gradient of its output.
        saved: With an activation, the input or output that its backward op takes, of dy's shape and dtype.
        activation: The name of an activation, with its op's defaults, or None.
        out: Receives db; by default a new array.
        accumulate: Add to out instead of overwriting it.

    Returns:
        db: (K,), of dy's dtype.

    Raises:
        ValueError: An activation without saved, or saved without an activation.
    """
    backend = backend_of(dy=dy, optional=dict(saved=saved, out=out))
    shape, activation = expect_any_float("dy", dy, 2), expect_activation(activation)
    if (saved is None) != (activation is None):
        received = f"activation={activation!r} with saved={'None' if saved is None else 'an array'}"
        raise ValueError(f"bias_grad takes saved together with activation, received {received}")
    if saved is not None:
        expect_shape("saved", saved, shape, "dy's shape")
        expect_same_dtype(dy=dy, saved=saved)
    expect_out(out, shape[-1:], dy.dtype)
    expect_accumulate(accumulate, out=out)
    dy, saved = copy_if_overlapping([out], dy, saved)
    return backend.conv.bias_grad(dy, saved, activation=activation, out=out, accumulate=accumulate)


def forward_problem(x: Array, w: Array, bias: Array | None, **window: Unpack[Window]) -> Conv2dProblem:
    """The problem of a forward pass, checked against its arrays."""
    x_shape, w_shape = expect_float("x", x, "N H W C"), expect_float("w", w, "K R S C/groups")
    expect_same_dtype(x=x, w=w, bias=bias)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    expect_bias(bias, problem.k)
    return problem


def _forward_epilogue(dy: Array, problem: Conv2dProblem, mask: Array | None, pool: int) -> Epilogue:
    """The epilogue of the forward pass that belongs to dy. Raises if dy or the mask does not fit it."""
    shape = problem.pooled_shape(pool)
    if mask is None:
        if pool != 1:
            raise ValueError(f"pool={pool} needs the mask that conv2d_relu returned, received None")
        expect_shape("dy", dy, shape, "the convolution's output")
        return PLAIN
    expect_shape("dy", dy, shape, "the output of conv2d_relu")
    expect_mask(mask, problem, pool)
    return Epilogue.of(pool=int(pool), masked=True)
