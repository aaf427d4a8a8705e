"""The explanation of one value: its window times its filter gives the layer's result."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpuconv.inspect import explain
from gpuconv.layers import (
    LAYERS,
    AdaptiveAvgPool2D,
    Conv2D,
    Flatten,
    GlobalAvgPool2D,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Tanh,
)
from gpuconv.layers.base import descendants
from gpuconv.layers.fused import Fused
from gpuconv.layers.registry import name_of
from tests.inspect.deep_net import DEEP_X, deep_net
from tests.layers.layer_cases import CASES, IDS

ROW = [
    Conv2D(4, 3, padding=1, stride=2, name="strided"),
    Conv2D(6, (3, 2), padding="same", groups=2, dilation=(1, 2), bias=False, name="grouped"),
    ReLU(name="relu"),
    MaxPool2D(3, stride=2, padding=1, name="pool"),
    Flatten(name="flat"),
    Linear(5, name="fc"),
]


@pytest.fixture
def net():
    return Sequential([Input((9, 8, 2)), *ROW], seed=3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(1, 9, 8, 2)).astype(np.float32)


def test_the_terms_of_every_value_add_up_to_it(net, x):
    volumes = net.activations(x)
    for name in ("strided", "grouped", "pool", "fc"):
        for at in np.ndindex(*volumes[name].shape[1:]):
            explanation = explain(net, x, name, at, most=1000)
            assert explanation.value == volumes[name][0][at]
            # The value of a pool is its first term, the winner.
            terms = explanation.terms[:1] if name == "pool" else explanation.terms
            total = explanation.bias + sum(term.product for term in terms)
            assert abs(explanation.value - total) <= 1e-5 * max(1.0, abs(total)), str(explanation)


def test_terms_refer_to_inputs_of_the_layer(net, x):
    volumes = net.activations(x)
    for name, before in (("strided", "input"), ("grouped", "strided"), ("fc", "flat")):
        explanation = explain(net, x, name, tuple(size // 2 for size in volumes[name].shape[1:]))
        for term in explanation.terms:
            inside = all(0 <= i < size for i, size in zip(term.at, volumes[before].shape[1:]))
            assert term.input == (volumes[before][0][term.at] if inside else 0.0)
        magnitudes = [abs(term.product) for term in explanation.terms]
        assert magnitudes == sorted(magnitudes, reverse=True)


def test_the_terms_of_a_gradient_are_the_outputs_whose_factor_is_not_zero(net, x):
    """Most gradients of the convolution's outputs are 0 behind the ReLU and the pool, so most products are 0 too."""
    found = explain(net, x, "grouped", (2, 2, 0), backward=True, most=1000)
    factors = {tuple(map(int, index)) for index in np.argwhere(found.weight)}
    assert {term.at for term in found.terms} == factors
    assert len(found.terms) == len(factors) == np.count_nonzero(found.weight)


def test_explanations_name_the_winner_of_a_pool_and_the_input_of_a_relu_or_flatten(net, x):
    volumes = net.activations(x)
    pool = explain(net, x, "pool", (1, 1, 3))
    assert volumes["relu"][0][pool.terms[0].at] == pool.value
    relu = explain(net, x, "relu", (2, 1, 3))
    assert relu.terms[0].input == volumes["grouped"][0, 2, 1, 3]
    assert str(relu).endswith(f"from the input {relu.terms[0].input:.9g} at [2, 1, 3]")
    flat = explain(net, x, "flat", (7,))
    assert str(flat).endswith(f"from the input {flat.value:.9g} at [{', '.join(map(str, flat.terms[0].at))}]")
    assert volumes["pool"][0][flat.terms[0].at] == flat.value


@pytest.mark.parametrize("name", ["conv1", "relu1", "pool1", "pool2", "pool3", "fc1"])
def test_values_of_an_image_larger_than_the_net_was_built_for_are_explained(name):
    """An AdaptiveAvgPool2D keeps the window size and the stride that it was built with."""
    body = [Conv2D(3, 3, padding=1), ReLU(), MaxPool2D(2), AdaptiveAvgPool2D(2), GlobalAvgPool2D(), Flatten()]
    net = Sequential([Input((8, 8, 2), larger=True), *body, Linear(3)], seed=1)
    x = np.random.default_rng(0).normal(size=(1, 13, 12, 2)).astype(np.float32)
    volume = net.activations(x)[name][0]
    for at in np.ndindex(volume.shape):
        found = explain(net, x, name, at)
        assert found.value == volume[at]
        assert found.total == pytest.approx(volume[at], rel=1e-5, abs=1e-6)
    gradient = explain(net, x, name, (0, 0, 1)[-volume.ndim :], backward=True)
    assert gradient.value == pytest.approx(gradient.total, rel=1e-5, abs=1e-6)
    assert net.input_shape == (8, 8, 2)


def test_unknown_layers_positions_outside_and_invalid_arguments_are_refused(net, x):
    for layer, at, message in [
        ("convv", (0, 0, 0), "unknown layer"),
        ("strided", (0, 0), r"\(size 5 x 4 x 4\) is given by 3 whole numbers, counted from 0"),
        ("strided", (5, 0, 0), r"received \[5, 0, 0\]"),
        ("strided", (0, 0, -1), "size 5 x 4 x 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain(net, x, layer, at)
    with pytest.raises(ValueError, match=r"batch of one image, such as \(1, .*, received shape \(2, "):
        explain(net, np.concatenate([x, x]), "fc", (0,))
    with pytest.raises(ValueError, match="most must be"):
        explain(net, x, "fc", (0,), most=0)
    with pytest.raises(ValueError, match="from 0 to 4, received 5"):
        explain(net, x, "fc", (0,), backward=True, target=5)
    with pytest.raises(
        ValueError, match=r"a position in the input of fc \(size .*\) is given by 1 whole number, counted"
    ):
        explain(net, x, "fc", (0, 0), backward=True)


def test_every_computation_of_a_value_is_within_its_bound_and_the_terms_add_up_to_the_value():
    net = deep_net()
    for name, volume in net.activations(DEEP_X):
        if name == "residual1.shortcut":
            with pytest.raises(ValueError, match=r"several layers; name one of them: residual1\.shortcut\.conv1$"):
                explain(net, DEEP_X, name, (0, 0, 0))
            continue
        for at in ((0,) * (volume.ndim - 1), tuple(size - 1 for size in volume.shape[1:])):
            explanation = explain(net, DEEP_X, name, at, most=1000)
            assert explanation.value == volume[0][at], name
            assert [result.by for result in explanation.computed] == ["float64", "numpy"]
            assert all(result.error <= result.bound for result in explanation.computed), (name, explanation.computed)
            if explanation.weight is not None:
                total = sum(term.product for term in explanation.terms) + explanation.bias
                assert abs(total - explanation.total) < 1e-12 * (1 + abs(total)), name


def test_a_gradient_is_the_sum_of_contributions_from_outputs():
    net = deep_net()
    for name in [layer.path for layer in descendants(net) if not isinstance(layer, Sequential)]:
        dx: list[np.ndarray] = []
        twin = net.twin()
        with twin[name].register_backward_hook(lambda layer, gradient, dy, dx=dx: dx.append(gradient)):
            twin.forward(DEEP_X)
            twin.backward(np.eye(4, dtype=np.float32)[[2]])
        for at in (np.argmax(np.abs(dx[0])), 0):
            index = tuple(map(int, np.unravel_index(at, dx[0].shape[1:])))
            explanation = explain(net, DEEP_X, name, index, backward=True, target=2, most=1000)
            assert explanation.value == dx[0][(0, *index)], name
            # Where backward reads the layer's output, its op gets the float32 output, but the terms use the float64
            # one. So they differ by up to that op's bound.
            rounding = explanation.computed[-1].bound + 1e-12
            assert abs(sum(term.product for term in explanation.terms) - explanation.total) < rounding, name
            assert all(result.error <= result.bound for result in explanation.computed), (name, explanation.computed)
    assert not any(np.any(gradient) for gradient in net.grads().values())


def test_a_pool_gives_the_margin_of_its_winner():
    net = Sequential([Input((2, 2, 1)), MaxPool2D(2)])
    explanation = explain(net, np.array([1, 5, 4.5, 2], np.float32).reshape(1, 2, 2, 1), "pool1", (0, 0, 0))
    assert explanation.terms[0].at == (0, 1, 0)
    assert explanation.margin == 0.5
    assert str(explanation).endswith("the largest of 4 inputs, by 0.5")


REFUSED = {  # the message, by the kind of layer
    Sequential: "holds several layers; name one of them: layer1.conv1, layer1.relu1, ",
    Fused: "runs its layers as one op; take the net as it was before fuse()",
}


def net_around(layer, shape):
    """(net, image): a net of an input, the layer and an FC layer, with random parameters and running statistics."""
    layer = Layer.from_config(layer.config() | {"name": "layer1"})
    row = [layer] if isinstance(layer, Input) else [Input(shape), layer]
    net = Sequential([*row, Flatten(), Linear(2)], seed=1)
    random = np.random.default_rng(7)
    for part in descendants(net):
        for name, array in part.arrays.items():
            if not part.variables[name].buffer or name.startswith("running"):
                array[...] = random.uniform(0.2, 1.5, array.shape) * (1 if name == "running_var" else -1)
    return net, random.normal(size=(1, *shape)).astype(np.float32)


@pytest.mark.parametrize(("layer", "shape"), [case[:2] for case in CASES], ids=IDS)
def test_each_kind_of_layer_is_explained_in_both_directions_or_refused(layer, shape):
    """CASES has every kind of layer in the registry, as a test of the layers ensures."""
    net, x = net_around(layer, shape)
    refusal = next((REFUSED[kind] for kind in REFUSED if isinstance(layer, kind)), None)
    for backward in (False, True):
        volume = net["layer1"].input_shape if backward else net["layer1"].output_shape
        if refusal:
            with pytest.raises(ValueError, match=re.escape(refusal)):
                explain(net, x, "layer1", (0,) * len(volume), backward=backward)
            continue
        indices = [np.unravel_index(number, volume) for number in {0, np.prod(volume) // 3, np.prod(volume) - 1}]
        for at in [tuple(map(int, index)) for index in indices]:
            explanation = explain(net, x, "layer1", at, backward=backward, most=10_000)
            value, scale = value_in_the_net(net, x, at, backward)
            assert explanation.value == value, str(explanation)
            assert all(result.error <= result.bound for result in explanation.computed), explanation.computed
            total = explanation.bias + sum(term.product for term in explanation.terms)
            is_sum = explanation.weight is not None and (backward or explanation.kind != "MaxPool2D")
            if is_sum:
                assert abs(total - explanation.total) <= 1e-6 * scale, str(explanation)


def value_in_the_net(net, x, at, backward):
    """The value at a position in layer1's output, or in its input's gradient, and the scale of its rounding errors."""
    twin, volumes = net.twin(), []

    def keep(layer, first, second):
        volumes.append(first if backward else second)

    with twin["layer1"].register_backward_hook(keep) if backward else twin["layer1"].register_forward_hook(keep):
        scores = twin.forward(x)
        if backward:
            twin.backward(np.eye(2, dtype=np.float32)[[int(scores.argmax())]])
    return volumes[0][(0, *at)], max(1.0, float(np.abs(volumes[0]).max()))


def test_user_defined_layers_and_layers_inside_a_fused_one_are_refused():
    class UserLayer(Layer):
        def forward(self, x, training=False):
            return x / 2

    fused = Sequential([Input((4, 4, 1)), Conv2D(2, 3), Tanh(), Flatten(), Linear(2)]).fuse()
    x = np.ones((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"take the net as it was before fuse\(\)"):
        explain(fused, x, "conv1", (0, 0, 0))
    user_defined = Sequential([Input((4, 4, 1)), UserLayer(name="soft"), Flatten(), Linear(2)])
    with pytest.raises(ValueError, match=r"soft is a .*UserLayer, a kind that explain does not know"):
        explain(user_defined, x, "soft", (0, 0, 0))
    LAYERS.pop(name_of(UserLayer))
