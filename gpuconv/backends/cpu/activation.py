"""Activations. Most ops pass their formula to `elementwise`, which handles dtypes, blocks and out; ops that only
select numbers are exact in every dtype and need no conversion."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.elementwise import elementwise, result_array
from gpuconv.backends.cpu.erf import normal_cdf, normal_pdf
from gpuconv.backends.cpu.precision import store, widen
from gpuconv.backends.cpu.select import keep


def relu(x, *, out=None):
    return np.maximum(x, 0, out=result_array(x, out))  # exact in every dtype


def relu_backward(dy, y, *, out=None):
    return keep(dy, y > 0, out=out)


def relu6(x, *, out=None):
    return elementwise(lambda x: np.minimum(np.maximum(x, 0), 6), x, out=out)


def relu6_backward(dy, y, *, out=None):
    return keep(dy, (y > 0) & (y < 6), out=out)


def leaky_relu(x, *, negative_slope, out=None):
    return elementwise(lambda x: np.maximum(x, 0) + negative_slope * np.minimum(x, 0), x, out=out)


def leaky_relu_backward(dy, y, *, negative_slope, out=None):
    return elementwise(lambda dy, y: np.where(y > 0, dy, negative_slope * dy), dy, y, out=out)


def elu(x, *, alpha, out=None):
    return elementwise(lambda x: np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0)), x, out=out)


def elu_backward(dy, y, *, alpha, out=None):
    return elementwise(lambda dy, y: np.where(y > 0, dy, dy * (y + alpha)), dy, y, out=out)


def sigmoid(x, *, out=None):
    return elementwise(_sigmoid, x, out=out)


def _sigmoid(x):
    """1 / (1 + exp(-x)); where x < 0, numerator and denominator are multiplied by exp(x), so that no exp overflows."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def sigmoid_backward(dy, y, *, out=None):
    return elementwise(lambda dy, y: dy * y * (1 - y), dy, y, out=out)


def tanh(x, *, out=None):
    return elementwise(np.tanh, x, out=out)


def tanh_backward(dy, y, *, out=None):
    return elementwise(lambda dy, y: dy * (1 - y) * (1 + y), dy, y, out=out)


def silu(x, *, out=None):
    return elementwise(lambda x: x * _sigmoid(x), x, out=out)


def silu_backward(dy, x, *, out=None):
    def formula(dy, x):
        s = _sigmoid(x)
        return dy * (s + x * s * (1 - s))

    return elementwise(formula, dy, x, out=out)


def hard_swish(x, *, out=None):
    return elementwise(lambda x: np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6)), x, out=out)


def hard_swish_backward(dy, x, *, out=None):
    def formula(dy, x):
        return np.where(x <= -3, 0, np.where(x >= 3, dy, dy * ((2 * x + 3) / 6)))

    return elementwise(formula, dy, x, out=out)


def gelu(x, *, approximate, out=None):
    def exact(x):
        return x * normal_cdf(x)

    def by_tanh(x):
        return x * _sigmoid(2 * _tanh_argument(x))  # 0.5 * (1 + tanh(u)) is sigmoid(2 * u)

    return elementwise(exact if approximate == "none" else by_tanh, x, out=out)


def gelu_backward(dy, x, *, approximate, out=None):
    def exact(dy, x):
        return dy * (normal_cdf(x) + x * normal_pdf(x))

    def by_tanh(dy, x):
        s = _sigmoid(2 * _tanh_argument(x))
        near = np.clip(x, -30, 30)  # beyond, s * (1 - s) is 0, and x * x may overflow
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near * near)
        return dy * (s + near * s * (1 - s) * 2 * slope)

    return elementwise(exact if approximate == "none" else by_tanh, dy, x, out=out)


def _tanh_argument(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def softmax(x, *, out=None):
    """The row's maximum is subtracted first, so exp cannot overflow, and the sum, whose largest term is 1, is not 0."""
    powers = np.exp(widen(x) - widen(x.max(axis=1, keepdims=True, initial=-np.inf)))
    powers /= powers.sum(axis=1, keepdims=True)
    return store(powers, x.dtype, out)
