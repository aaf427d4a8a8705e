"""Names of layers: given, automatic, and looked up by path."""

import numpy as np
import pytest

from gpuconv.layers import Conv2D, Input, Layer, Linear, ReLU, Residual, Sequential
from tests.layers.net_with_shortcut import net_of


def test_names_are_numbered_by_kind_and_state_keys_are_paths():
    net = net_of()
    assert [name for name, _ in net.children()] == [
        "input",
        "conv1",
        "relu1",
        "pool1",
        "residual1",
        "dropout1",
        "flatten1",
        "fc1",
    ]
    assert list(net.state_dict()) == [
        "conv1.weight",
        "conv1.bias",
        "residual1.conv1.weight",
        "residual1.conv1.bias",
        "residual1.norm1.weight",
        "residual1.norm1.bias",
        "residual1.norm1.running_mean",
        "residual1.norm1.running_var",
        "residual1.shortcut.conv1.weight",
        "residual1.shortcut.conv1.bias",
        "dropout1.offset",
        "fc1.weight",
        "fc1.bias",
    ]
    assert list(net.buffers()) == ["residual1.norm1.running_mean", "residual1.norm1.running_var", "dropout1.offset"]
    assert net.params().keys() | net.buffers().keys() == net.state_dict().keys()
    assert net["conv1"] is net[1]
    assert net[-1].path == "fc1"
    assert net["conv1"].input_shape == (6, 5, 2)
    assert net["conv1"].output_shape == (6, 5, 4)
    assert len(net) == len(list(net)) == 8


def test_given_names_stay_and_automatic_ones_avoid_them():
    net = Sequential([Input((4,)), Linear(3), Linear(3, name="fc1"), Linear(2, name="head")])
    assert [name for name, _ in net.children()] == ["input", "fc2", "fc1", "head"]


def test_only_the_first_input_layer_has_a_name_without_a_number():
    net = Sequential([Input((4,)), Input((4,)), Input((4,), name="input3"), Input((4,))])
    assert [layer.name for layer in net] == ["input", "input2", "input3", "input4"]
    assert Layer.from_config(net.config()).config() == net.config()


def test_the_error_for_an_unknown_layer_name_suggests_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'conv1'"):
        net_of()["conv"]


def test_the_error_for_an_index_without_a_layer_names_the_indices():
    net = net_of()
    assert net[-8] is net["input"]
    for index in (8, -9):
        with pytest.raises(IndexError, match=f"the net has layers 0 to 7, received {index}"):
            net[index]


def test_layers_inside_others_are_found_by_name(net, x):
    inner = net["residual1.conv1"]
    assert inner.path == "residual1.conv1"
    assert inner is net["residual1"]["conv1"]
    assert net["residual1.shortcut.conv1"] is net["residual1.shortcut"][0]
    for name, array in net.named_parameters():
        assert net[name] is array
        assert net[name.rpartition(".")[0]].path == name.rpartition(".")[0]
    for wrong, message in (
        ("residual1.conv7", r"unknown layer 'conv7'; did you mean 'conv1'\? \(known: conv1, shortcut\)"),
        ("conv1.wieght", "unknown variable 'wieght'; did you mean 'weight'"),
        ("residual1.", "unknown layer ''"),
    ):
        with pytest.raises(ValueError, match=message):
            net[wrong]
    volumes = net.activations(x)
    np.testing.assert_array_equal(
        volumes["residual1"], volumes["residual1.conv1"] + volumes["residual1.shortcut.conv1"]
    )
    assert not inner.hooks


def test_a_net_contains_its_names_and_its_layers(net, x):
    for name in ("conv1", "residual1.conv1", "residual1.conv1.weight", "conv1.weight"):
        assert name in net
    for name in ("conv2", "residual1.conv9", "conv1.wight", "residual1.conv1.bais"):
        assert name not in net
    assert "conv1.weight" in Sequential([Input((6, 6, 2)), Conv2D(3, 3)], initialize=False)
    unbuilt = Sequential([Conv2D(3, 3)])
    assert "conv1" in unbuilt
    assert "conv1.weight" not in unbuilt  # its variables are known once it is built
    assert "conv1.wait" not in unbuilt
    assert net[1] in net
    assert Conv2D(3, 3, padding=1) not in net
    volumes = net.activations(x)
    assert "residual1.conv1" in volumes
    assert "conv2" not in volumes


def test_a_layer_named_shortcut_in_a_body_is_refused_beside_a_shortcut():
    """Otherwise the inner layers of both could have the same keys in the state dict."""
    body = [Sequential([Conv2D(1, 1)], name="shortcut")]
    assert next(iter(Sequential([Input((2, 2, 1)), Residual(body)]).state_dict())) == "residual1.shortcut.conv1.weight"
    with pytest.raises(ValueError, match="the body has a layer named 'shortcut'"):
        Residual(body, [Conv2D(1, 1)])


def test_layers_of_two_nets_get_unique_names():
    one, two = net_of(), net_of(seed=1)
    assert [layer.name for layer in Sequential([one[0], Conv2D(2, 1), ReLU(), two[1]])] == [
        "input",
        "conv2",
        "relu1",
        "conv1",
    ]
    joined = Sequential([one[0], one[1], ReLU(), Conv2D(2, 1), two[1]])
    assert [layer.name for layer in joined] == ["input", "conv1", "relu1", "conv2", "conv3"]
    np.testing.assert_array_equal(joined[1]["weight"], one[1]["weight"])
    np.testing.assert_array_equal(joined[4]["weight"], two[1]["weight"])
