"""Activations and their gradients, formula by formula."""

import inspect
import math

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide


def _op(formula):
    """The op that a formula of float64 arrays defines; its result is rounded to the first array's dtype."""

    def op(*arrays, out=None, **options):
        return round_to(formula(*map(wide, arrays), **options), arrays[0].dtype, out)

    out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY)
    vars(op)["__signature__"] = inspect.Signature([*inspect.signature(formula).parameters.values(), out])
    return op


relu = _op(lambda x: np.maximum(x, 0))
relu_backward = _op(lambda dy, y: np.where(y > 0, dy, 0))
relu6 = _op(lambda x: np.minimum(np.maximum(x, 0), 6))
relu6_backward = _op(lambda dy, y: np.where((y > 0) & (y < 6), dy, 0))
leaky_relu = _op(lambda x, *, negative_slope: x * np.where(x > 0, 1, negative_slope))
leaky_relu_backward = _op(lambda dy, y, *, negative_slope: dy * np.where(y > 0, 1, negative_slope))
elu = _op(lambda x, *, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))
elu_backward = _op(lambda dy, y, *, alpha: dy * np.where(y > 0, 1, y + alpha))
sigmoid = _op(lambda x: _sigmoid(x))
sigmoid_backward = _op(lambda dy, y: dy * y * (1 - y))
tanh = _op(lambda x: np.tanh(x))
tanh_backward = _op(lambda dy, y: dy * (1 - y) * (1 + y))
silu = _op(lambda x: x * _sigmoid(x))
silu_backward = _op(lambda dy, x: dy * _sigmoid(x) * (1 + x * (1 - _sigmoid(x))))
hard_swish = _op(lambda x: np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6)))
hard_swish_backward = _op(lambda dy, x: np.where(x <= -3, 0, dy * np.where(x >= 3, 1, (2 * x + 3) / 6)))


@_op
def gelu(x, *, approximate):
    return x * (_normal_cdf(x) if approximate == "none" else _sigmoid(2 * _cubic(x)))


@_op
def gelu_backward(dy, x, *, approximate):
    if approximate == "none":
        return dy * (_normal_cdf(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
    s = _sigmoid(2 * _cubic(x))
    near = np.clip(x, -30, 30)  # beyond, s * (1 - s) is 0, and x**2 may overflow
    return dy * (s + near * s * (1 - s) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * near**2))


@_op
def softmax(x):
    powers = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(x):
    """1 / (1 + exp(-x)); where x < 0, numerator and denominator are multiplied by exp(x), so that no exp overflows."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def _normal_cdf(x):
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2))


def _cubic(x):
    """u in GELU's tanh form: 0.5 * (1 + tanh(u)) equals sigmoid(2 * u), which is accurate for large negative x too."""
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
