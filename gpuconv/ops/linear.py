"""Fully connected layers."""

from __future__ import annotations

from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_activation,
    expect_algorithm,
    expect_bias,
    expect_bias_gradient,
    expect_disjoint,
    expect_float,
    expect_out,
    expect_same_dtype,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Epilogue, LinearProblem
from gpuconv.types import Array, ArrayT

__all__ = ["linear", "linear_dgrad", "linear_wgrad"]


@op("conv2d_fprop.cu")
def linear(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None = None,
    *,
    activation: str | None = None,
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
) -> ArrayT:
    """act(x @ w.T + bias).

    Args:
        x: (N, in_features), any float dtype.
        w: (out_features, in_features), of x's dtype.
        bias: (out_features,), of x's dtype; None adds nothing.
        activation: None, or the name of an activation op, which is applied with its defaults.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        y: (N, out_features), of x's dtype.
    """
    backend = backend_of(x=x, w=w, optional=dict(bias=bias, out=out))
    problem, epilogue, algo, tf32 = _check_linear(x, w, bias, out, activation=activation, algo=algo, tf32=tf32)
    x, w, bias = copy_if_overlapping([out], x, w, bias)
    return backend.linear.linear(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=out)


@remembered
def _check_linear(
    x: Array, w: Array, bias: Array | None, out: Array | None, *, activation: str | None, algo: object, tf32: object
) -> tuple[LinearProblem, Epilogue, str, bool]:
    (_, features), (k, c) = expect_float("x", x, "N in_features"), expect_float("w", w, "out_features in_features")
    expect_same_dtype(x=x, w=w, bias=bias)
    if features != c:
        raise ValueError(f"w reads {c} features, so x must have {c} columns, received {features}")
    expect_bias(bias, k, "one value for each output feature")
    problem = LinearProblem.of(x.shape, w.shape)
    expect_out(out, problem.y_shape, x.dtype)
    epilogue = Epilogue.of(expect_activation(activation))
    algo, tf32 = expect_algorithm(algo, tf32, x.dtype, "fprop")
    return problem, epilogue, algo, tf32


@op("conv2d_dgrad.cu")
def linear_dgrad(dy: ArrayT, w: ArrayT, *, algo: str = "auto", tf32: bool = False, out: ArrayT | None = None) -> ArrayT:
    """The gradient of linear with respect to x: dx = dy @ w.

    Args:
        dy: (N, out_features), any float dtype.
        w: (out_features, in_features), of dy's dtype.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        dx: (N, in_features), of dy's dtype.
    """
    backend = backend_of(dy=dy, w=w, optional=dict(out=out))
    problem, algo, tf32 = _check_linear_dgrad(dy, w, out, algo=algo, tf32=tf32)
    dy, w = copy_if_overlapping([out], dy, w)
    return backend.linear.linear_dgrad(dy, w, problem, algo=algo, tf32=tf32, out=out)


@remembered
def _check_linear_dgrad(
    dy: Array, w: Array, out: Array | None, *, algo: object, tf32: object
) -> tuple[LinearProblem, str, bool]:
    (n, columns), (k, c) = expect_float("dy", dy, "N out_features"), expect_float("w", w, "out_features in_features")
    expect_same_dtype(dy=dy, w=w)
    if columns != k:
        raise ValueError(f"w has {k} output features, so dy must have {k} columns, received {columns}")
    problem = LinearProblem.of((n, c), w.shape)
    expect_out(out, problem.x_shape, dy.dtype)
    return problem, *expect_algorithm(algo, tf32, dy.dtype, "dgrad")


@op("conv2d_wgrad.cu")
def linear_wgrad(
    dy: ArrayT,
    x: ArrayT,
    *,
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
    db: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of linear with respect to w: dw = dy.T @ x.

    Args:
        dy: (N, out_features), any float dtype.
        x: (N, in_features), of dy's dtype.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives dw; by default a new array.
        db: (out_features,); receives the sum of dy over the batch; None does not compute it.
        accumulate: Add to out (and to db if it is given) instead of overwriting them.

    Returns:
        dw: (out_features, in_features), of dy's dtype.

    Raises:
        ValueError: dy and x have different batch sizes, accumulate=True without out, or db where in_features is 0.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(out=out, db=db))
    problem, algo, tf32 = _check_linear_wgrad(dy, x, out, db, algo=algo, tf32=tf32, accumulate=accumulate)
    outputs = expect_disjoint(out=out, db=db)
    dy, x = copy_if_overlapping(outputs, dy, x)
    return backend.linear.linear_wgrad(dy, x, problem, algo=algo, tf32=tf32, out=out, db=db, accumulate=accumulate)


@remembered
def _check_linear_wgrad(
    dy: Array, x: Array, out: Array | None, db: Array | None, *, algo: object, tf32: object, accumulate: bool
) -> tuple[LinearProblem, str, bool]:
    (n, k), (x_n, c) = expect_float("dy", dy, "N out_features"), expect_float("x", x, "N in_features")
    expect_same_dtype(dy=dy, x=x)
    if n != x_n:
        raise ValueError(f"dy and x must have one batch size, received {n} and {x_n}")
    problem = LinearProblem.of(x.shape, (k, c))
    expect_out(out, problem.w_shape, dy.dtype)
    expect_bias_gradient(db, k, c, dy.dtype)
    expect_accumulate(accumulate, out=out)
    return problem, *expect_algorithm(algo, tf32, dy.dtype, "wgrad")
