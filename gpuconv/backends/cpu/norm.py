"""Batch and group normalization. The variance is computed from centered values, because mean(x**2) - mean**2 would lose
digits to cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cpu import activation as activations
from gpuconv.backends.cpu.arithmetic import add
from gpuconv.backends.cpu.conv import conv2d, conv2d_dgrad, conv2d_relu, gradient_before_mask
from gpuconv.backends.cpu.precision import buffer, side_by_side, store, sum_rows, widen


def batch_norm(x, gamma, beta, running_mean, running_var, *, training, momentum, eps, activation, addend, out):
    y = buffer(out, x.shape, gamma.dtype)
    rows, repeat = _rows(y)
    m = math.prod(x.shape[:-1])
    mean = sum_rows(x) / m if training else running_mean.copy()
    np.subtract(side_by_side(widen(x)), repeat(mean), out=rows)
    if training:
        var = _channel_dot(y, y) / m
        _move(running_mean, mean, momentum)
        _move(running_var, var * m / (m - 1), momentum)
    else:
        var = running_var
    inv_std = 1 / np.sqrt(var + eps)
    rows *= repeat(gamma * inv_std)
    rows += repeat(beta)
    y = store(y, x.dtype, out)
    if addend is not None:
        y = add(y, addend, out=y)
    return y if activation is None else ACTIVATIONS[activation].apply(activations, y, out=y), mean, inv_std


def conv2d_batch_norm(
    x, w, bias, gamma, beta, running_mean, running_var, conv, *, momentum, eps, activation, addend, out
):
    problem, epilogue, algo, tf32 = conv
    forward = conv2d_relu if epilogue.masked else conv2d
    outputs = forward(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=None)
    conv_y, *mask = outputs if epilogue.masked else (outputs,)
    y, mean, inv_std = batch_norm(
        conv_y,
        gamma,
        beta,
        running_mean,
        running_var,
        training=True,
        momentum=momentum,
        eps=eps,
        activation=activation,
        addend=addend,
        out=out,
    )
    return y, conv_y, mean, inv_std, *mask


def batch_norm_backward(
    dy, x, gamma, mean, inv_std, *, beta, activation, saved, training, mask, w, conv, out, dgamma, dbeta, accumulate
):
    if w is not None:
        problem, epilogue, algo, tf32 = conv
        dy = conv2d_dgrad(dy, w, problem, epilogue, mask=None, algo=algo, tf32=tf32, out=None, accumulate=False)
    if saved is not None:
        dy = ACTIVATIONS[activation].gradient(activations, dy, saved)
    elif activation is not None:
        before_activation = (widen(x) - mean) * (gamma * inv_std) + beta
        dy = ACTIVATIONS[activation].apply_backward(activations, dy, before_activation.astype(x.dtype))
    wide_dy = widen(dy)
    # `out` cannot hold xhat if it shares memory with dy, which is read again later. With a mask, `out` has another
    # shape.
    needs_buffer = out is not None and (mask is not None or np.may_share_memory(out, dy))
    xhat = buffer(None if needs_buffer else out, x.shape, gamma.dtype)
    rows, repeat = _rows(xhat)
    np.subtract(side_by_side(widen(x)), repeat(mean), out=rows)
    rows *= repeat(inv_std)
    dgamma_here, dbeta_here = _channel_dot(wide_dy, xhat), sum_rows(wide_dy)
    if training:  # dx = (dy - (dbeta + xhat * dgamma) / m) * gamma * inv_std, overwriting xhat
        m = max(1, math.prod(x.shape[:-1]))
        rows *= repeat(-dgamma_here / m)
        rows += side_by_side(wide_dy)
        rows -= repeat(dbeta_here / m)
        rows *= repeat(gamma * inv_std)
    else:
        np.multiply(side_by_side(wide_dy), repeat(gamma * inv_std), out=rows)
    dx = xhat if mask is None else gradient_before_mask(xhat, mask, conv[0], pool=2)  # xhat now holds dx
    return (
        store(dx, dy.dtype, out),
        store(dgamma_here, gamma.dtype, dgamma, accumulate),
        store(dbeta_here, gamma.dtype, dbeta, accumulate),
        *([] if saved is None else [dy]),
    )


def _rows(y: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A view of y with several pixels per row, and a function that repeats a channel vector for all pixels of a row."""
    rows = side_by_side(y)
    return rows, partial(np.resize, new_shape=rows.shape[1:])


def _channel_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of a * b over all axes but the last."""
    rows, channels = math.prod(a.shape[:-1]), a.shape[-1]
    return np.einsum("nc,nc->c", a.reshape(rows, channels), b.reshape(rows, channels))


def _move(running: np.ndarray, batch: np.ndarray, momentum: float) -> None:
    running *= 1 - momentum
    running += momentum * batch


def group_norm(x, gamma, beta, *, groups, eps, out):
    z = _grouped(widen(x), groups)
    mean = z.mean((1, 3), keepdims=True)
    y = z - mean
    inv_std = 1 / np.sqrt(np.square(y).mean((1, 3), keepdims=True) + gamma.dtype.type(eps))
    y *= inv_std
    y = y.reshape(x.shape)
    y *= gamma
    y += beta
    return store(y, x.dtype, out), mean[:, 0, :, 0], inv_std[:, 0, :, 0]


def group_norm_backward(dy, x, gamma, mean, inv_std, *, out, dgamma, dbeta, accumulate):
    groups, wide_dy = mean.shape[1], np.ascontiguousarray(widen(dy))
    inv_std = inv_std[:, None, :, None]
    xhat = (_grouped(widen(x), groups) - mean[:, None, :, None]) * inv_std
    dgamma_here, dbeta_here = _channel_dot(wide_dy, xhat.reshape(x.shape)), sum_rows(wide_dy)
    g = _grouped(wide_dy * gamma, groups)
    product = (g * xhat).mean((1, 3), keepdims=True)
    g -= g.mean((1, 3), keepdims=True)
    xhat *= product
    g -= xhat
    g *= inv_std
    return (
        store(g.reshape(x.shape), dy.dtype, out),
        store(dgamma_here, gamma.dtype, dgamma, accumulate),
        store(dbeta_here, gamma.dtype, dbeta, accumulate),
    )


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    """x as (N, pixels, groups, channels of a group)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
