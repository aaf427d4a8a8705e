"""Muon against its definition: a polynomial of the singular values, computed with NumPy's SVD."""

import numpy as np
import pytest

from gpuconv import ops

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def on_singular_values(x, steps):
    left, values, right = np.linalg.svd(x, full_matrices=False)
    values = values / (np.sqrt((values**2).sum()) + 1e-7)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (13, 2, 2, 1), (6, 6), (1, 7)])
def test_two_steps_follow_the_formula_on_singular_values(rng, shape, nesterov):
    param, v = rng.standard_normal(shape), np.zeros(shape)
    expected, momentum = param.copy(), np.zeros(shape)
    for lr in (0.3, 0.1):
        grad = rng.standard_normal(shape)
        momentum = 0.6 * momentum + grad
        direction = grad + 0.6 * momentum if nesterov else momentum
        orthogonal = on_singular_values(direction.reshape(len(param), -1), 5).reshape(shape)
        expected = expected * np.sqrt(len(param)) / np.linalg.norm(expected) - lr * orthogonal
        ops.muon_step([param], [grad], [v], lr=lr, momentum=0.6, nesterov=nesterov)
    np.testing.assert_allclose(param, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(v, momentum, rtol=1e-14)


def test_a_parameter_of_zeros_is_not_scaled():
    param, grad, v = np.zeros((2, 3)), np.ones((2, 3)), np.zeros((2, 3))
    ops.muon_step([param], [grad], [v], lr=0.5, steps=0)
    np.testing.assert_allclose(param, np.full((2, 3), -0.5 / np.sqrt(6)), rtol=1e-6)


def test_without_newton_schulz_steps_the_update_is_the_normalized_direction():
    param, grad, v = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]]), np.zeros((1, 2))
    ops.muon_step([param], [grad], [v], lr=0.5, steps=0)
    np.testing.assert_allclose(param, [[0.6, 0.3]], rtol=1e-6)


def test_a_skipped_step_changes_nothing(rng):
    param, grad, v = rng.standard_normal((3, 4, 5))
    grad[0, 0] = np.nan  # the reason to skip the step
    before = param.copy(), v.copy()
    scaling = np.array([8.0, 0.0, 0.0, 1.0])
    ops.muon_step([param], [grad], [v], scaling=scaling, lr=0.1, momentum=0.6)
    np.testing.assert_array_equal(param, before[0])
    np.testing.assert_array_equal(v, before[1])


def test_a_gradient_that_is_infinite_makes_the_parameter_nan_without_a_warning():
    param, grad, v = np.ones((2, 3)), np.full((2, 3), np.inf), np.zeros((2, 3))
    ops.muon_step([param], [grad], [v], lr=0.5)
    assert np.isnan(param).all()
