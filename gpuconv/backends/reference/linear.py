"""Fully connected layers."""

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.conv import bias_grad
from gpuconv.backends.reference.precision import factors, round_to, wide


def linear(x, w, bias, problem, epilogue, *, algo, tf32, out):
    wide_x, wide_w = factors(tf32, x, w)
    y = wide_x @ wide_w.T
    if bias is not None:
        y += wide(bias)
    if epilogue.activation is not None:
        y = ACTIVATIONS[epilogue.activation].apply(activations, y)
    return round_to(y, x.dtype, out)


def linear_dgrad(dy, w, problem, *, algo, tf32, out):
    wide_dy, wide_w = factors(tf32, dy, w)
    return round_to(wide_dy @ wide_w, dy.dtype, out)


def linear_wgrad(dy, x, problem, *, algo, tf32, out, db, accumulate):
    wide_dy, wide_x = factors(tf32, dy, x)
    if db is not None:
        bias_grad(dy, None, activation=None, out=db, accumulate=accumulate)
    return round_to(wide_dy.T @ wide_x, dy.dtype, out, accumulate)
