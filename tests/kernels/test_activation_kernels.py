"""The kernels of six activations against closed-form formulas in float64."""

import math

import numpy as np
import pytest

from gpuconv.backends import asarray, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.ops import activation
from tests.random_arrays import signed
from tests.tolerance import assert_within, elementwise_bound

erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numerical(f):
    """The derivative of f, by central differences."""
    return lambda x, h=1e-6: (f(x + h) - f(x - h)) / (2 * h)


FORWARD = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "silu": lambda x: x * sigmoid(x),
}
SAVES_OUTPUT = ("relu", "leaky_relu", "sigmoid", "tanh")
DTYPES = ("float64", "float32", *(pytest.param(name, marks=pytest.mark.kernels) for name in ("float16", "bfloat16")))
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}  # relative and absolute
SHAPES = [(1,), (0, 3), (3, 5, 7, 2), (257,), (2, 1024)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORWARD)
def test_forward_matches_the_formula(name, shape, dtype):
    x = signed(shape, scale=2, dtype=dtype)
    y = getattr(activation, name)(asarray(x, "emulated"))
    assert y.dtype == x.dtype
    assert y.shape == shape
    y64 = FORWARD[name](x.astype(float))
    assert_within(to_numpy(y), y64, elementwise_bound(dtype, 1 + np.abs(y64)), name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_backward_is_the_derivative(name, dtype):
    x, dy = (signed((3, 7, 11), seed, scale=2, dtype=dtype) for seed in (0, 1))
    saved = FORWARD[name](x.astype(float)).astype(x.dtype) if name in SAVES_OUTPUT else x
    dx = getattr(activation, f"{name}_backward")(asarray(dy, "emulated"), asarray(saved, "emulated"))
    expected = dy.astype(float) * numerical(FORWARD[name])(x.astype(float))
    bound = max(TOLERANCE[dtype] * 4, 1e-8)  # the saved output is rounded as well
    np.testing.assert_allclose(to_numpy(dx).astype(float), expected, rtol=bound, atol=bound)


def test_gelu_with_the_tanh_approximation_matches_its_formula():
    x, dy = signed((5, 9), scale=2), signed((5, 9), 1, scale=2)

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    y = activation.gelu(asarray(x, "emulated"), approximate="tanh")
    dx = activation.gelu_backward(asarray(dy, "emulated"), asarray(x, "emulated"), approximate="tanh")
    np.testing.assert_allclose(to_numpy(y), gelu(x), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(to_numpy(dx), dy * numerical(gelu)(x), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("dtype", "far"), [("float64", 1e300), ("float32", 1e38)])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_gradient_of_gelu_is_a_step_for_arguments_whose_square_overflows(approximate, dtype, far):
    x = np.array([-far, far, np.nan], dtype)
    dx = activation.gelu_backward(
        asarray(np.full_like(x, 3), "emulated"), asarray(x, "emulated"), approximate=approximate
    )
    np.testing.assert_array_equal(to_numpy(dx), [0, 3, np.nan])


@pytest.mark.parametrize("name", FORWARD)
def test_nan_propagates_and_large_values_stay_finite(name):
    x = asarray(np.array([np.nan, -1e4, 1e4, 0.0], np.float32), "emulated")
    y = to_numpy(getattr(activation, name)(x))
    assert np.isnan(y[0])
    assert np.isfinite(y[1:]).all()


def test_leaky_relu_takes_a_slope_and_works_in_place_and_with_views_and_unaligned_arrays():
    x = signed((6, 10), scale=2, dtype="float32")
    device, columns = asarray(x, "emulated"), emulator.zeros((6, 20))
    expected = np.where(x > 0, x, np.float32(0.25) * x)

    def check(view, value, out=None):
        y = activation.leaky_relu(view, negative_slope=0.25, out=out)
        np.testing.assert_array_equal(to_numpy(y), value)
        return y

    check(device, expected)
    check(device[:, ::3], expected[:, ::3])
    check(device.ravel()[1:], expected.ravel()[1:])
    check(device, expected, out=columns[:, ::2])
    np.testing.assert_array_equal(to_numpy(columns)[:, 1::2], 0)
    assert check(device, expected, out=device) is device
