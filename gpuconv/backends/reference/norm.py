"""Batch and group normalization. conv: problem, epilogue, algo and tf32 of the convolution
that an op includes, or None."""

import math

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.conv import conv2d, conv2d_dgrad, conv2d_relu, gradient_before_mask
from gpuconv.backends.reference.precision import round_to, wide


def batch_norm(x, gamma, beta, running_mean, running_var, *, training, momentum, eps, activation, addend, out):
    z, axes, m = wide(x), tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    if training:
        mean, var = z.mean(axes), z.var(axes)
        for running, batch in ((running_mean, mean), (running_var, var * m / (m - 1))):
            round_to((1 - momentum) * wide(running) + momentum * batch, running.dtype, running)
    else:
        mean, var = wide(running_mean), wide(running_var)
    inv_std = 1 / np.sqrt(var + eps)
    y = wide(gamma) * (z - mean) * inv_std + wide(beta)
    if addend is not None:
        y = wide(round_to(y, x.dtype)) + wide(addend)
    if activation is not None:
        y = ACTIVATIONS[activation].apply(activations, wide(round_to(y, x.dtype)))
    return round_to(y, x.dtype, out), round_to(mean, gamma.dtype), round_to(inv_std, gamma.dtype)


def conv2d_batch_norm(
    x, w, bias, gamma, beta, running_mean, running_var, conv, *, momentum, eps, activation, addend, out
):
    problem, epilogue, algo, tf32 = conv
    outs = (conv2d_relu if epilogue.masked else conv2d)(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=None)
    conv_y, *mask = outs if epilogue.masked else (outs,)
    options = dict(momentum=momentum, eps=eps, activation=activation, addend=addend, out=out)
    y, mean, inv_std = batch_norm(conv_y, gamma, beta, running_mean, running_var, training=True, **options)
    return y, conv_y, mean, inv_std, *mask


def batch_norm_backward(
    dy, x, gamma, mean, inv_std, *, beta, activation, saved, training, mask, w, conv, out, dgamma, dbeta, accumulate
):
    if w is not None:
        dy = conv2d_dgrad(dy, w, *conv[:2], mask=None, algo=conv[2], tf32=conv[3], out=None, accumulate=False)
    if saved is not None:
        dy = round_to(ACTIVATIONS[activation].gradient(activations, wide(dy), wide(saved)), dy.dtype)
    wide_dy, g, s = wide(dy), wide(gamma), wide(inv_std)
    xhat, axes, m = (wide(x) - wide(mean)) * s, tuple(range(x.ndim - 1)), max(1, math.prod(x.shape[:-1]))
    if activation is not None and saved is None:
        before = wide(round_to(g * xhat + wide(beta), x.dtype))
        wide_dy = ACTIVATIONS[activation].apply_backward(activations, wide_dy, before)
    sum_dy, sum_dy_xhat = wide_dy.sum(axes), (wide_dy * xhat).sum(axes)
    centered = wide_dy - (sum_dy + xhat * sum_dy_xhat) / m if training else wide_dy
    dx = round_to(gradient_before_mask(g * s * centered, mask, conv and conv[0], pool=2), dy.dtype, out)
    dgamma = round_to(sum_dy_xhat, gamma.dtype, dgamma, accumulate)
    return dx, dgamma, round_to(sum_dy, gamma.dtype, dbeta, accumulate), *([] if saved is None else [dy])


def group_norm(x, gamma, beta, *, groups, eps, out):
    z = _grouped(wide(x), groups)
    mean, inv_std = z.mean((1, 3), keepdims=True), 1 / np.sqrt(z.var((1, 3), keepdims=True) + eps)
    y = ((z - mean) * inv_std).reshape(x.shape) * wide(gamma) + wide(beta)
    return round_to(y, x.dtype, out), *(round_to(each[:, 0, :, 0], gamma.dtype) for each in (mean, inv_std))


def group_norm_backward(dy, x, gamma, mean, inv_std, *, out, dgamma, dbeta, accumulate):
    groups, axes = mean.shape[1], tuple(range(x.ndim - 1))
    mean, inv_std = (wide(each)[:, None, :, None] for each in (mean, inv_std))
    xhat, g = (_grouped(wide(x), groups) - mean) * inv_std, _grouped(wide(dy) * wide(gamma), groups)
    centered = g - g.mean((1, 3), keepdims=True) - xhat * (g * xhat).mean((1, 3), keepdims=True)
    dx = round_to((inv_std * centered).reshape(x.shape), x.dtype, out)
    dgamma = round_to((wide(dy) * xhat.reshape(x.shape)).sum(axes), gamma.dtype, dgamma, accumulate)
    return dx, dgamma, round_to(wide(dy).sum(axes), gamma.dtype, dbeta, accumulate)


def _grouped(x, groups):
    """x as (N, pixels, groups, channels of a group)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
