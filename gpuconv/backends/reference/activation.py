"""Activations and their gradients, formula by formula."""

import math

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide


def relu(x, *, out=None):
    return round_to(np.maximum(wide(x), 0), x.dtype, out)


def relu_backward(dy, y, *, out=None):
    return round_to(np.where(wide(y) > 0, wide(dy), 0), dy.dtype, out)


def relu6(x, *, out=None):
    return round_to(np.minimum(np.maximum(wide(x), 0), 6), x.dtype, out)


def relu6_backward(dy, y, *, out=None):
    return round_to(np.where((wide(y) > 0) & (wide(y) < 6), wide(dy), 0), dy.dtype, out)


def leaky_relu(x, *, negative_slope, out=None):
    return round_to(wide(x) * np.where(wide(x) > 0, 1, negative_slope), x.dtype, out)


def leaky_relu_backward(dy, y, *, negative_slope, out=None):
    return round_to(wide(dy) * np.where(wide(y) > 0, 1, negative_slope), dy.dtype, out)


def sigmoid(x, *, out=None):
    return round_to(_sigmoid(wide(x)), x.dtype, out)


def sigmoid_backward(dy, y, *, out=None):
    return round_to(wide(dy) * wide(y) * (1 - wide(y)), dy.dtype, out)


def _sigmoid(x):
    """1 / (1 + exp(-x)); where x < 0 both sides are multiplied by exp(x), so that no exp overflows."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def tanh(x, *, out=None):
    return round_to(np.tanh(wide(x)), x.dtype, out)


def tanh_backward(dy, y, *, out=None):
    return round_to(wide(dy) * (1 - wide(y)) * (1 + wide(y)), dy.dtype, out)


def silu(x, *, out=None):
    return round_to(wide(x) * _sigmoid(wide(x)), x.dtype, out)


def silu_backward(dy, x, *, out=None):
    z = wide(x)
    s = _sigmoid(z)
    return round_to(wide(dy) * (s + z * s * (1 - s)), dy.dtype, out)


def gelu(x, *, approximate, out=None):
    z = wide(x)
    return round_to(z * (_normal_cdf(z) if approximate == "none" else _sigmoid(2 * _cubic(z))), x.dtype, out)


def gelu_backward(dy, x, *, approximate, out=None):
    z = wide(x)
    if approximate == "none":
        slope = _normal_cdf(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    else:
        s = _sigmoid(2 * _cubic(z))
        slope = s + z * s * (1 - s) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    return round_to(wide(dy) * slope, dy.dtype, out)


def _normal_cdf(x):
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2))


def _cubic(x):
    """u of the tanh form: 0.5 * (1 + tanh(u)) = sigmoid(2 * u), which stays accurate for large negative x."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def softmax(x, *, out=None):
    z = wide(x)
    powers = np.exp(z - z.max(axis=1, keepdims=True, initial=-np.inf))
    return round_to(powers / powers.sum(axis=1, keepdims=True), x.dtype, out)
