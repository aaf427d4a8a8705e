"""The comparison with the oracle, the results of a call, and the rule and cases that every op must have."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import ops, verify
from gpuconv.verify import oracle
from gpuconv.verify.compare import Expected, compare, relative_error, results

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("expected", "bound", "result", "wrong"),
    [
        ([1, 2], 0.5, [1.5, 1.5], False),
        ([1, 2], [0.5, 0.1], [1.5, 1.8], True),
        ([1, NAN], 0.5, [1, NAN], False),
        ([1, NAN], 0.5, [1, 2], True),
        ([1, 2], 0.5, [1, NAN], True),
        ([INF, -INF], 0.0, [INF, -INF], False),
        ([INF, 1], 0.5, [-INF, 1], True),
        ([1, 2], 0.0, [1, 2], False),
        ([1, 2], 0.0, [1, 2 + 2**-50], True),
        ([1, 2], NAN, [1, 3], True),
        ([1, 2], INF, [1, 3], False),
        ([1, 2], 0.5, [1, 2, 3], True),
        (1.0, 0.5, 2.0, True),
        (1.0, 0.5, 1.0, False),
        (np.zeros((0, 3)), 0.0, np.zeros((0, 3)), False),
    ],
)
def test_compare_finds_values_outside_their_bound(expected, bound, result, wrong):
    assert compare(Expected("y", np.array(expected), bound), np.array(result)).wrong == wrong


def test_the_worst_value_is_the_one_farthest_outside_its_bound():
    worst = compare(Expected("y", np.array([[1.0, 2.0]]), np.array([[0.5, 0.125]])), np.array([[1.5, 2.25]]))
    assert (worst.error, worst.bound, worst.share) == (0.25, 0.125, 2.0)
    assert worst.text == "y[0, 1] is 2.25, expected 2 within 0.125"
    assert compare(Expected("y", np.zeros(2), 0.0), np.zeros(3)).text == "y has shape (3,), not (2,)"


def test_relative_errors_equal_those_computed_by_hand():
    assert relative_error(Expected("y", np.array([3.0, 4.0]), 0.0), np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(Expected("y", np.zeros(2), 0.0), np.zeros(3)) == np.inf
    assert np.isnan(relative_error(Expected("y", np.ones(2), 0.0), np.array([1, NAN])))


def test_results_are_the_returned_and_the_changed_arrays():
    params, grads, velocities, masters = ([np.ones(2), np.ones(3)] for _ in range(4))
    assert list(results("sgd_step", [params, grads, velocities, None, None], None)) == [
        "params[0]",
        "params[1]",
        "velocities[0]",
        "velocities[1]",
    ]
    assert list(results("sgd_step", [params, grads, None, masters, None], None)) == [
        "params[0]",
        "params[1]",
        "masters[0]",
        "masters[1]",
    ]
    y = np.zeros(3)
    named = results("random_uniform", [y], y)
    assert list(named) == ["y"]
    assert named["y"] is y
    x, *vectors = (np.ones(2) for _ in range(5))
    named = results("batch_norm", [x, *vectors], (x, x, x))
    assert list(named) == ["result", "result 1", "result 2", "running_mean", "running_var"]


def test_every_op_has_a_rule_and_cases_in_every_tier_but_the_random_one():
    assert oracle._RULES.keys() == ops.OPS.keys()
    listed = verify.cases()
    for tier in ("tiny", "odd", "real"):
        assert {case.op for case in listed if case.tier == tier} == ops.OPS.keys()
    fixed = [case for case in listed if case.tier != "random"]
    assert len({(case.op, case.tier, case.name) for case in fixed}) == len(fixed)
