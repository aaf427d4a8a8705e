"""Activations agree with SciPy and with formulas in float64, and have the right limits and gradients."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpuconv import ops
from gpuconv.backends import oracle
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from tests.gradients import numerical_gradient
from tests.random_arrays import signed
from tests.tolerance import SMALLEST, UNIT_ROUNDOFF, assert_within

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "hard_swish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
}
SAVES_INPUT = ("gelu", "silu", "hard_swish")  # the backward pass reads x, not y
CASES = [(name, {}) for name in FORMULAS] + [
    ("leaky_relu", {"negative_slope": 0.25}),
    ("leaky_relu", {"negative_slope": 3.0}),
    ("elu", {"alpha": 0.0}),
    ("elu", {"alpha": 2.5}),
    ("gelu", {"approximate": "tanh"}),
]
POINTS = np.array([-11.3, -5.0, -3.9, -2.5, -1.7, -0.9, -0.3, -1e-3, 1e-3, 0.2, 0.46, 0.7, 1.3, 2.2, 4.1, 9.7, 12.5])


def formula(name, options):
    if name == "leaky_relu" and options:
        return lambda x: x if x > 0 else options["negative_slope"] * x
    if name == "elu" and options:
        return lambda x: x if x > 0 else options["alpha"] * math.expm1(x)
    if options.get("approximate") == "tanh":
        return lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return FORMULAS[name]


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_activations_are_within_their_bounds_of_the_float64_formulas(name, options, dtype):
    x = POINTS.astype(as_dtype(dtype))
    y = getattr(ops, name)(x, **options)
    assert y.dtype == x.dtype
    wide = x.astype(np.float64)
    expected = np.array([formula(name, options)(float(point)) for point in wide])
    # exp and the parts of erfc are accurate to a few ulps of the accumulation dtype. exp(-u), whose argument is
    # rounded, is accurate to u ulps, and u is at most about 80. One rounding to dtype comes last.
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    bound = ((16 + 2 * wide**2) * unit + UNIT_ROUNDOFF[dtype]) * abs(expected) + SMALLEST[dtype]
    if options.get("approximate") == "tanh" and dtype == "float64":
        bound = bound + 4 * unit * abs(wide)  # the expected value's own 1 + tanh cancels on the far left
    assert_within(y, expected, bound, name)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("shape", [(), (1,), (17,), (2, 3, 5, 7), (1, 1, 1, 1)])
def test_gradients_agree_with_numerical_ones(name, options, shape):
    x, dy = np.asarray(signed(shape) * 2), np.asarray(signed(shape, seed=1))
    op, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    y = op(x, **options)
    assert isinstance(y, np.ndarray)
    dx = backward(dy, x if name in SAVES_INPUT else y, **options)
    assert dx.shape == shape
    np.testing.assert_allclose(dx, numerical_gradient(lambda: op(x, **options), x, dy), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_backward_in_every_dtype_is_within_its_bound_of_float64(name, options, dtype):
    """The fast NumPy code computes arrays of this size in several blocks."""
    saved = signed((3, 7001), dtype=dtype)
    if name not in SAVES_INPUT:
        saved = getattr(ops, name)(saved, **options)
    dy = signed(saved.shape, seed=1, dtype=dtype)
    dx = getattr(ops, f"{name}_backward")(dy, saved, **options)
    assert dx.dtype == dy.dtype
    wide_dy = dy.astype(np.float64)
    with oracle():
        expected = getattr(ops, f"{name}_backward")(wide_dy, saved.astype(np.float64), **options)
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    # The sums in the derivatives cancel (1 - y**2, s + x * s * (1 - s)), so their error is relative to |dy|, not |dx|.
    bound = UNIT_ROUNDOFF[dtype] * abs(expected) + 16 * unit * abs(wide_dy) + SMALLEST[dtype]
    assert_within(dx, expected, bound, name)


def test_relu_gives_the_values_computed_by_hand():
    x = np.array([-3.0, -0.0, 0.0, 2.0, np.inf, -np.inf, np.nan])
    y = ops.relu(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 2, np.inf, 0, np.nan])
    dy = np.array([np.inf, np.nan, -5.0, -4.0, 3.0, 1.0, 7.0])
    np.testing.assert_array_equal(ops.relu_backward(dy, y), [0, 0, 0, -4, 3, 0, 0])  # 0 even where dy is not finite


def test_relu6_gives_the_values_computed_by_hand():
    x = np.array([-3.0, 0.0, 2.0, 6.0, 7.0, np.inf, -np.inf, np.nan])
    y = ops.relu6(x)
    np.testing.assert_array_equal(y, [0, 0, 2, 6, 6, 6, 0, np.nan])
    np.testing.assert_array_equal(ops.relu6_backward(np.full(8, 5.0), y), [0, 0, 5, 0, 0, 0, 0, 0])


def test_elu_gives_the_values_computed_by_hand():
    x = np.array([np.log(0.25), -0.0, 0.0, 2.0, np.inf, -np.inf, np.nan])
    y = ops.elu(x, alpha=2.0)
    np.testing.assert_allclose(y, [-1.5, 0, 0, 2, np.inf, -2, np.nan], rtol=1e-15)
    np.testing.assert_allclose(ops.elu_backward(np.full(7, 5.0), y, alpha=2.0)[:6], [2.5, 10, 10, 5, 5, 0], rtol=1e-15)


def test_hard_swish_gives_the_values_computed_by_hand():
    x = np.array([-np.inf, -4.0, -3.0, -1.5, 0.0, 1.0, 3.0, 4.0, np.inf, np.nan])
    np.testing.assert_allclose(ops.hard_swish(x), [0, 0, 0, -0.375, 0, 2 / 3, 3, 4, np.inf, np.nan], rtol=1e-15)
    dx = ops.hard_swish_backward(np.full(10, 6.0), x)
    np.testing.assert_array_equal(dx, [0, 0, 0, 0, 3, 5, 6, 6, 6, np.nan])


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_nan_gives_nan_and_infinities_give_the_limits(dtype):
    x = np.array([np.nan, np.inf, -np.inf]).astype(as_dtype(dtype))
    for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "hard_swish", "gelu"):
        assert np.isnan(getattr(ops, name)(x)[0].astype(np.float64)), name
    limits_of = {  # without gelu and silu, which give NaN at -inf: the product of -inf and 0
        "relu": (np.inf, 0),
        "relu6": (6, 0),
        "leaky_relu": (np.inf, -np.inf),
        "sigmoid": (1, 0),
        "tanh": (1, -1),
        "elu": (np.inf, -1),
        "hard_swish": (np.inf, 0),
    }
    for name, limits in limits_of.items():
        np.testing.assert_array_equal(getattr(ops, name)(x).astype(np.float64)[1:], limits, err_msg=name)
    assert np.isnan(ops.relu_backward(x, np.ones_like(x)).astype(np.float64)[0])
    np.testing.assert_array_equal(ops.relu_backward(np.ones_like(x), x).astype(np.float64), [0, 1, 0])


@pytest.mark.parametrize(("dtype", "far", "rtol"), [("float64", -710.0, 1e-14), ("float32", -90.0, 1e-5)])
def test_sigmoid_never_overflows(dtype, far, rtol):
    """It keeps its precision where exp(-x) would be infinite."""
    x = np.array([-1e4, far, -80.0, 80.0, 1e4], dtype)
    y = ops.sigmoid(x)
    assert (y[0], y[4]) == (0, 1)
    np.testing.assert_allclose(y[1:3], np.exp(x[1:3].astype(np.float64)), rtol=rtol)


@pytest.mark.parametrize("x", [-100.0, 100.0, 1e30, -1e30])
def test_gelu_of_large_arguments_is_a_ramp(x):
    for approximate in ("none", "tanh"):
        for dtype in ("float64", "float32", "bfloat16"):
            value = np.array([x]).astype(as_dtype(dtype))
            np.testing.assert_array_equal(
                ops.gelu(value, approximate=approximate).astype(np.float64), np.maximum(value, 0).astype(np.float64)
            )


@pytest.mark.parametrize(
    ("dtype", "far"), [("float64", 1e300), ("float32", 1e38), ("bfloat16", 1e38), ("float16", 6e4)]
)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_gradient_of_gelu_is_a_step_for_arguments_whose_square_overflows(approximate, dtype, far):
    x = np.array([-far, far, np.nan]).astype(as_dtype(dtype))
    dx = ops.gelu_backward(np.full_like(x, 3), x, approximate=approximate)
    np.testing.assert_array_equal(dx.astype(np.float64), [0, 3, np.nan])


# --- against SciPy ------------------------------------------------------------------------------


def test_sigmoid_gelu_and_softmax_equal_scipys():
    special = pytest.importorskip("scipy.special")
    x = signed((1001,)) * 3
    np.testing.assert_allclose(ops.sigmoid(x), special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(ops.gelu(x), x * special.ndtr(x), rtol=1e-12)
    scores = signed((13, 7)) * 5
    np.testing.assert_allclose(ops.softmax(scores), special.softmax(scores, axis=1), rtol=1e-14)


# --- softmax -----------------------------------------------------------------------------------


def test_softmax_gives_the_values_computed_by_hand():
    x = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]])
    x += np.array([[1e4], [-1e4]])  # a shift of a row changes nothing
    np.testing.assert_allclose(ops.softmax(x), [[1 / 8, 2 / 8, 5 / 8], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-11)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_softmax_in_every_dtype_is_within_its_bound(dtype):
    x = (signed((5, 11)) * 10).astype(as_dtype(dtype))
    wide = x.astype(np.float64)
    expected = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    y = ops.softmax(x)
    assert y.dtype == x.dtype
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    assert_within(y, expected, (64 * unit + 2 * UNIT_ROUNDOFF[dtype]) * expected + SMALLEST[dtype])


def test_softmax_takes_infinite_scores_nan_and_no_scores():
    x = np.array([[0.0, -np.inf, 0.0], [-np.inf] * 3, [np.inf, 1, 2], [np.nan, 1, 2]])
    np.testing.assert_array_equal(ops.softmax(x)[0], [0.5, 0, 0.5])
    assert np.isnan(ops.softmax(x)[1:]).all()
    assert ops.softmax(np.zeros((0, 3))).shape == (0, 3)
    assert ops.softmax(np.zeros((3, 0))).shape == (3, 0)


# --- out, strides, shapes ----------------------------------------------------------------------

UNARY = [*FORMULAS, "softmax"]


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("name", UNARY)
def test_out_may_be_the_input_or_strided(name, dtype):
    x = signed((7, 5), dtype=dtype)
    expected = getattr(ops, name)(x)
    before = x.copy()
    poisoned = np.full((5, 14), np.nan, x.dtype).T[::2]
    assert getattr(ops, name)(x, out=poisoned) is poisoned
    np.testing.assert_array_equal(poisoned, expected)
    np.testing.assert_array_equal(x, before)
    assert getattr(ops, name)(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("target", [0, 1], ids=["into dy", "into saved"])
def test_backward_may_overwrite_its_inputs(name, dtype, target):
    inputs = [signed((7, 5), dtype=dtype), signed((7, 5), seed=1, dtype=dtype)]
    backward = getattr(ops, f"{name}_backward")
    expected = backward(*inputs)
    assert backward(*inputs, out=inputs[target]) is inputs[target]
    np.testing.assert_array_equal(inputs[target], expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_strided_inputs_give_the_same_bits(name):
    x, dy = signed((3, 5, 7)).transpose(2, 0, 1)[:, ::-1], signed((7, 6, 5), seed=1)[:, ::2]
    np.testing.assert_array_equal(getattr(ops, name)(x), getattr(ops, name)(x.copy()))
    backward = getattr(ops, f"{name}_backward")
    np.testing.assert_array_equal(backward(dy, x), backward(dy.copy(), x.copy()))


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=30)  # for each function
@given(shape=arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
def test_activations_take_arrays_of_any_shape(name, shape):
    x = signed(shape)
    y = getattr(ops, name)(x)
    assert y.shape == shape
    np.testing.assert_allclose(y, np.vectorize(FORMULAS[name], otypes=[float])(x), rtol=1e-12, atol=1e-300)


@given(st.floats(min_value=0, max_value=10), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_leaky_relu_takes_any_slope(slope, value):
    x = np.array([value])
    assert ops.leaky_relu(x, negative_slope=slope)[0] == (value if value > 0 else slope * value)
    assert ops.leaky_relu_backward(x, -np.ones(1), negative_slope=slope)[0] == slope * value
