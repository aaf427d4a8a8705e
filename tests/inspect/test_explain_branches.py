"""Explanations of values and gradients of branches."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest

from gpuconv import backends
from gpuconv.inspect import explain
from gpuconv.inspect.computed_by import compute_everywhere
from gpuconv.inspect.explain import layer_of
from gpuconv.layers import Branches, Conv2D, Flatten, Input, Linear, ReLU, Residual, Sequential, Tanh
from gpuconv.layers.base import descendants


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_gradients_through_branches_are_the_sum_of_those_of_all_branches(device):
    """The net has a block inside a block, a block whose shortcut is the input, and branches concatenated and added."""
    inner = Residual([Conv2D(2, 3, padding=1)])
    outer = Residual([ReLU(), inner], [Conv2D(2, 1)])
    row = [outer, Branches([[], [Conv2D(2, 1)]]), Branches([[], [Conv2D(4, 1)], [Tanh()]], merge="add")]
    net = Sequential([Input((5, 4, 2)), *row, Flatten(), Linear(3)], seed=6).to(device)
    x = backends.asarray(np.random.default_rng(1).normal(size=(1, 5, 4, 2)), device, "float32")
    twin = net.twin()
    gradients: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as hooks:
        for layer in [layer for layer in descendants(twin) if not isinstance(layer, Sequential)]:

            def keep(layer, dx, dy):
                gradients[layer.path] = backends.to_numpy(dx)

            hooks.enter_context(layer.register_backward_hook(keep))
        twin.forward(x)
        twin.backward(backends.asarray(np.eye(3)[[1]], device, "float32"))
    for name, branches in (("residual1", 2), ("residual1.residual1", 2), ("branches1", 2), ("branches2", 3)):
        explanation = explain(net, x, name, (2, 1, 1), backward=True, target=1)
        assert explanation.value == gradients[name][0, 2, 1, 1], name
        assert len(explanation.terms) == branches
        assert abs(sum(term.product for term in explanation.terms) - explanation.total) < 1e-6, name
        assert all(result.error <= result.bound for result in explanation.computed), name
        assert "the branches contribute" in str(explanation)
    for name in ("residual1.residual1.conv1", "residual1.shortcut.conv1", "branches2.branch2.conv1"):
        assert explain(net, x, name, (2, 1, 1), backward=True, target=1).value == gradients[name][0, 2, 1, 1], name
    added = explain(net, x, "branches2", (2, 1, 1))
    assert "the sum of its branches'" in str(added)
    for name in ("residual1", "branches2"):  # the text names all branches, however few terms are listed
        assert str(explain(net, x, name, (2, 1, 1), most=1)) == str(explain(net, x, name, (2, 1, 1)))
    assert abs(sum(term.product for term in added.terms) - added.total) < 1e-6


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_a_concatenated_value_is_computed_by_the_op_that_wrote_its_slice(device):
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    for rows in ([[], [Conv2D(3, 1)]], [[Conv2D(2, 1), Tanh()], [Conv2D(3, 1)], []]):
        net = Sequential([Input((8, 8, 1)), Branches(rows), Flatten(), Linear(10)], seed=1).to(device)
        x = backends.asarray(images, device)
        y = backends.to_numpy(net.children()[1][1].infer(x))
        for channel in range(y.shape[-1]):
            explanation = explain(net, x, "branches1", (3, 4, channel))
            assert explanation.computed[-1].by == device
            assert explanation.computed[-1].value == y[0, 3, 4, channel], (rows, channel)
            assert explanation.computed[-1].error <= explanation.computed[-1].bound


@pytest.fixture
def last_ops(monkeypatch):
    """The last op of the calls that computed each explained value."""
    ops = []

    def recorded(calls, *arguments):
        ops.append(calls[-1].op)
        return compute_everywhere(calls, *arguments)

    monkeypatch.setattr(sys.modules[layer_of.__module__], "compute_everywhere", recorded)
    return ops


def test_a_concatenated_value_of_equal_or_nan_branches_is_computed_by_the_right_op(last_ops):
    """Such values do not show which branch they come from."""
    rows = [[Conv2D(2, 1), ReLU()], [Branches([[], [Conv2D(1, 1), Tanh()]])], [Conv2D(2, 1), Tanh()]]
    net = Sequential([Input((2, 2, 1)), Branches(rows), Flatten(), Linear(10)], seed=1)
    for value in (0.0, np.nan):
        for channel, op in enumerate(("relu", "relu", "copy", "tanh", "tanh", "tanh")):
            explanation = explain(net, np.full((1, 2, 2, 1), value, np.float32), "branches1", (0, 1, channel))
            assert np.array_equal(explanation.computed[-1].value, value, equal_nan=True)
            assert last_ops.pop() == op, (value, channel)


def test_a_value_that_a_branch_passes_on_is_computed_by_the_earlier_layer_that_wrote_it(last_ops):
    steps = [Branches([[], [Conv2D(4, 1), ReLU()]]) for _ in range(2)]
    inside = Branches([[Conv2D(4, 1)], [Conv2D(4, 1), Tanh(), Branches([[], [Conv2D(4, 1)]])]])
    net = Sequential([Input((3, 3, 2)), Conv2D(4, 1), Tanh(), *steps, inside, Flatten(), Linear(2)], seed=1)
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 2)).astype(np.float32)
    for name, kinds in {
        "branches1": ["tanh", "relu"],
        "branches2": ["tanh", "relu", "relu"],
        "branches3": ["conv2d", "tanh", "conv2d"],
    }.items():
        volume = net.activations(x[0])[name]
        for number, kind in enumerate(kinds):
            explanation = explain(net, x, name, (1, 2, 4 * number))
            assert last_ops.pop() == kind, (name, number)
            assert explanation.computed[-1].value == volume[1, 2, 4 * number]
            assert explanation.computed[-1].error <= explanation.computed[-1].bound
