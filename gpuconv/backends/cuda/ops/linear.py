"""Linear layers: convolutions of 1 x 1 maps, with the same kernels. Convolution launchers take the sizes from the
problem, so matrices can be passed as they are."""

from __future__ import annotations

from gpuconv.backends.cuda.ops import conv
from gpuconv.backends.cuda.runtime.outputs import buffer, store
from gpuconv.problems import PLAIN, Epilogue, LinearProblem
from gpuconv.types import ArrayT


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
    y = buffer(out, problem.y_shape, x.dtype, like=x, pitched=True)
    conv.conv2d(x, w, bias, problem.convolution, epilogue, algo=algo, tf32=tf32, out=y)
    return store(y, out)


def linear_dgrad(dy: ArrayT, w: ArrayT, problem: LinearProblem, *, algo: str, tf32: bool, out: ArrayT | None) -> ArrayT:
    dx = buffer(out, problem.x_shape, dy.dtype, like=dy, pitched=True)
    conv.conv2d_dgrad(dy, w, problem.convolution, PLAIN, mask=None, algo=algo, tf32=tf32, out=dx, accumulate=False)
    return store(dx, out)


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
    dw = buffer(out, problem.w_shape, x.dtype, like=x, keep=accumulate)
    conv.conv2d_wgrad(
        dy, x, problem.convolution, PLAIN, mask=None, algo=algo, tf32=tf32, out=dw, db=db, accumulate=accumulate
    )
    return store(dw, out)
