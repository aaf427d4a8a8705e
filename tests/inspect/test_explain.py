"""One value explained: its window times its filter gives what the layer computes."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.inspect import explain
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential

EVERY_KIND = [
    Conv2D(4, 3, padding=1, stride=2, name="strided"),
    Conv2D(6, (3, 2), padding="same", groups=2, dilation=(1, 2), bias=False, name="grouped"),
    ReLU(name="relu"),
    MaxPool2D(3, stride=2, padding=1, name="pool"),
    Flatten(name="flat"),
    Linear(5, name="fc"),
]


@pytest.fixture
def net():
    return Sequential([Input((9, 8, 2)), *EVERY_KIND], seed=3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(1, 9, 8, 2)).astype(np.float32)


def test_every_value_of_every_layer_is_its_total(net, x):
    volumes = net.activations(x)
    for name in ("strided", "grouped", "pool", "fc"):
        for at in np.ndindex(*volumes[name].shape[1:]):
            found = explain(net, x, name, at)
            assert found.value == volumes[name][0][at]
            assert found.error <= 1e-5 * max(1.0, abs(found.total)), str(found)


def test_terms_name_inputs_of_the_layer(net, x):
    volumes = net.activations(x)
    for name, before in (("strided", "input"), ("grouped", "strided"), ("fc", "flat")):
        found = explain(net, x, name, tuple(size // 2 for size in volumes[name].shape[1:]))
        for term in found.terms:
            inside = all(0 <= i < size for i, size in zip(term.at, volumes[before].shape[1:]))
            assert term.input == (volumes[before][0][term.at] if inside else 0.0)
        magnitudes = [abs(term.product) for term in found.terms]
        assert magnitudes == sorted(magnitudes, reverse=True)


def test_a_pool_names_its_winner_and_a_relu_its_input(net, x):
    volumes = net.activations(x)
    pool = explain(net, x, "pool", (1, 1, 3))
    assert volumes["relu"][0][pool.terms[0].at] == pool.value
    relu = explain(net, x, "relu", (2, 1, 3))
    assert relu.total == volumes["grouped"][0, 2, 1, 3]
    assert "at the same place" in str(relu)


def test_refusals(net, x):
    for layer, at, message in [
        ("convv", (0, 0, 0), "unknown layer"),
        ("strided", (0, 0), "3 whole numbers from 0 inside 5 x 4 x 4"),
        ("strided", (5, 0, 0), r"received \[5, 0, 0\]"),
        ("strided", (0, 0, -1), "inside 5 x 4 x 4"),
        ("flat", (0,), "no function of one window"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain(net, x, layer, at)
    with pytest.raises(ValueError, match="one image, received 2"):
        explain(net, np.concatenate([x, x]), "fc", (0,))
    block = Sequential([Input((4, 4, 2)), Residual([Conv2D(2, 3, padding=1)])])
    with pytest.raises(ValueError, match="no function of one window"):
        explain(block, np.zeros((1, 4, 4, 2), np.float32), "residual1", (0, 0, 0))
