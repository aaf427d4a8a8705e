"""Linear layers: convolutions of 1 x 1 maps, by the same kernels."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.cuda.ops import conv
from gpuconv.problems import PLAIN, Epilogue, LinearProblem
from gpuconv.types import Array, ArrayT


def linear(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    problem: LinearProblem,
    epilogue: Epilogue,
    *,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
) -> ArrayT:
    y = conv.conv2d(_maps(x), _maps(w), bias, problem.convolution, epilogue, algo=algo, tf32=tf32, out=_maps(out))
    return y.reshape(problem.y_shape) if out is None else out


def linear_dgrad(dy: ArrayT, w: ArrayT, problem: LinearProblem, *, algo: str, tf32: bool, out: ArrayT | None) -> ArrayT:
    dx = conv.conv2d_dgrad(
        _maps(dy), _maps(w), problem.convolution, PLAIN, mask=None, algo=algo, tf32=tf32, out=_maps(out)
    )
    return dx.reshape(problem.x_shape) if out is None else out


def linear_wgrad(
    dy: ArrayT,
    x: ArrayT,
    problem: LinearProblem,
    *,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
    db: ArrayT | None,
    accumulate: bool,
) -> ArrayT:
    dw = conv.conv2d_wgrad(
        _maps(dy),
        _maps(x),
        problem.convolution,
        PLAIN,
        mask=None,
        algo=algo,
        tf32=tf32,
        out=_maps(out),
        db=db,
        accumulate=accumulate,
    )
    return dw.reshape(problem.w_shape) if out is None else out


def _maps(matrix: Array | None) -> Any:
    """(rows, columns) as (rows, 1, 1, columns), of the same memory whatever its strides."""
    return None if matrix is None else matrix[:, None, None, :]
