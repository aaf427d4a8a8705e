"""Linear ops: by hand, by numerical gradients, in every dtype, with every kind of out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv import ops
from gpuconv.dtypes import as_dtype
from tests.gradients import numerical_gradient
from tests.tolerance import assert_within, sum_bound

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def arrays(n, c, k, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((n, c), (k, c), (k,), (n, k)))


X, W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]])


def test_all_directions_give_the_values_computed_by_hand():
    np.testing.assert_array_equal(ops.linear(X, W), [[-2, 4], [-2, 13]])
    np.testing.assert_array_equal(ops.linear(X, W, np.array([1.0, -5.0]), activation="relu"), [[0, 0], [0, 8]])
    dy = np.array([[1.0, 2.0], [3.0, -1.0]])
    np.testing.assert_array_equal(ops.linear_dgrad(dy, W), [[5, 2, -1], [1, -1, -3]])
    np.testing.assert_array_equal(ops.linear_wgrad(dy, X), [[13, 17, 21], [-2, -1, 0]])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (7, 1, 4), (1, 11, 3)])
def test_gradients_agree_with_numerical_ones(shape):
    x, w, bias, dy = arrays(*shape)

    def forward():
        return ops.linear(x, w, bias)

    for analytic, argument in ((ops.linear_dgrad(dy, w), x), (ops.linear_wgrad(dy, x), w), (ops.bias_grad(dy), bias)):
        np.testing.assert_allclose(analytic, numerical_gradient(forward, argument, dy, 1e-2), rtol=1e-9, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7), st.integers(1, 40), st.integers(1, 9), st.sampled_from(["float64", "float32", "float16"]))
def test_random_shapes_agree_with_the_definition(n, c, k, name):
    check(n, c, k, name)


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_every_dtype_is_within_its_bound(name):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    check(5, 33, 7, name)


def test_halves_are_rounded_once_at_the_end():
    # float16 cannot hold 2049: rounding before the bias is added, or before accumulating into out, loses the 1.
    x, ones, minus = np.array([[2048, 1]], np.float16), np.ones((1, 2), np.float16), np.array([-2048], np.float16)
    assert ops.linear(x, ones, minus).item() == 1
    assert ops.linear_wgrad(ones.T, x.T, out=minus[None].copy(), accumulate=True).item() == 1


def check(n, c, k, name):
    x, w, bias, dy = arrays(n, c, k, as_dtype(name))
    results = {
        "fprop": (ops.linear(x, w, bias), lambda x, w, bias, dy: np.einsum("nc,kc->nk", x, w) + bias, c + 1),
        "dgrad": (ops.linear_dgrad(dy, w), lambda x, w, bias, dy: np.einsum("nk,kc->nc", dy, w), k),
        "wgrad": (ops.linear_wgrad(dy, x), lambda x, w, bias, dy: np.einsum("nk,nc->kc", dy, x), n),
    }
    wide = [array.astype(np.float64) for array in (x, w, bias, dy)]
    for direction, (actual, formula, length) in results.items():
        assert actual.dtype == name
        bound = sum_bound(name, length, formula(*map(np.abs, wide)))
        assert_within(actual, formula(*wide), bound, direction)


@pytest.mark.parametrize("name", ["float64", "float16"])
@pytest.mark.parametrize("step", [1, 2])
def test_strided_outputs_and_inputs_and_accumulation_give_the_same_results(name, step):
    x, w, bias, dy = arrays(4, 6, 3, name)
    strided_x, strided_w, strided_dy = (np.repeat(a, 2, axis=1)[:, ::2] for a in (x, w, dy))
    calls = {  # by the shape of the output
        (4, 3): (lambda **out: ops.linear(strided_x, strided_w, bias, **out), ops.linear(x, w, bias)),
        (4, 6): (lambda **out: ops.linear_dgrad(strided_dy, strided_w, **out), ops.linear_dgrad(dy, w)),
        (3, 6): (lambda **out: ops.linear_wgrad(strided_dy, strided_x, **out), ops.linear_wgrad(dy, x)),
    }
    for (rows, columns), (call, expected) in calls.items():
        out = np.full((rows, columns * step), np.nan, name)[:, ::step]
        assert call(out=out) is out
        assert_within(out, expected, sum_bound(name, 7, np.abs(expected.astype(np.float64)) + 1))
    held = np.ones((3, 6 * step), name)[:, ::step]
    assert ops.linear_wgrad(dy, x, out=held, accumulate=True) is held
    expected = 1 + ops.linear_wgrad(dy, x).astype(np.float64)
    assert_within(held, expected, 4 * sum_bound(name, 1, np.abs(expected) + 1))


def test_out_may_be_an_input():
    x, w, bias, _ = arrays(4, 4, 4)
    expected = ops.linear(x, w, bias)
    assert ops.linear(x, w, bias, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_an_empty_batch_gives_empty_results_and_zero_gradients():
    x, w, bias, dy = arrays(0, 3, 2)
    assert ops.linear(x, w, bias).shape == (0, 2)
    assert ops.linear_dgrad(dy, w).shape == (0, 3)
    np.testing.assert_array_equal(ops.linear_wgrad(dy, x), np.zeros((2, 3)))


def test_infinities_that_cancel_give_nan_without_a_warning():
    x, w, bias = np.array([[np.inf, 1.0]]), np.ones((2, 2)), np.array([-np.inf, 0.0])
    np.testing.assert_array_equal(ops.linear(x, w, bias), [[np.nan, np.inf]])
