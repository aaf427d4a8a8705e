"""Nets as JSON, and configs that make no layer."""

import json

import numpy as np
import pytest

from gpuconv.layers import GELU, Conv2D, ConvTranspose2D, Layer, Linear, MaxPool2D, Upsample
from tests.layers.net_with_shortcut import images, net_of
from tests.toy_run import same_arrays


def test_the_config_is_json_and_rebuilds_the_same_net_bit_for_bit():
    net = net_of(seed=12)
    text = json.dumps(net.config())
    twin = Layer.from_config(json.loads(text))
    assert json.dumps(twin.config()) == text
    assert same_arrays(net.state_dict(), twin.state_dict())
    assert not same_arrays(net_of(seed=13).params(), net.params())
    x = images()
    np.testing.assert_array_equal(net.forward(x, True), twin.forward(x, True))


def test_a_config_has_the_documented_spelling_of_a_choice():
    for layer, name, spelled in (
        (GELU(approximate="TANH"), "approximate", "tanh"),
        (Conv2D(4, 3, fit="Cover"), "fit", "cover"),
        (MaxPool2D(2, fit="FLOOR"), "fit", "floor"),
        (Upsample(2, mode="Nearest"), "mode", "nearest"),
    ):
        assert getattr(layer, name) == spelled
        assert layer.config()[name] == spelled
    for layer, name, spelled in (
        (Conv2D(4, 3, padding="SAME"), "padding", "same"),
        (ConvTranspose2D(4, 3, padding="Valid"), "padding", "valid"),
        (MaxPool2D(2, padding="VALID"), "padding", "valid"),
        (Linear(4, weight_init="Xavier-Normal"), "weight_init", "xavier_normal"),
        (
            Conv2D(4, 3, weight_init={"name": "HE_NORMAL", "Fan": "out"}),
            "weight_init",
            {"name": "he_normal", "fan": "out"},
        ),
        (Linear(4, bias_init="ONES"), "bias_init", "ones"),
    ):
        assert layer.config()[name] == spelled


def test_a_config_of_an_unknown_layer_or_option_is_refused():
    with pytest.raises(ValueError, match="did you mean 'Conv2D'"):
        Layer.from_config({"layer": "Conv2", "out_channels": 3, "kernel_size": 3})
    with pytest.raises(ValueError, match="did you mean 'stride'"):
        Layer.from_config({"layer": "Conv2D", "out_channels": 3, "kernel_size": 3, "strides": 1})
    with pytest.raises(ValueError, match="entry 'layer'"):
        Layer.from_config({"out_channels": 3})


def test_a_config_of_a_base_class_or_without_a_needed_option_is_refused():
    for base in ("Layer", "Activation", "Merging", "Pool2D", "Fused", "FusedConv", "ImageNorm"):
        with pytest.raises(ValueError, match=f"unknown layer '{base}'"):
            Layer.from_config({"layer": base})
    with pytest.raises(ValueError, match="Linear needs the option 'out_features', received none"):
        Layer.from_config({"layer": "Linear"})
    with pytest.raises(ValueError, match=r"Conv2D needs the option 'kernel_size', received \['out_channels'\]"):
        Layer.from_config({"layer": "Conv2D", "out_channels": 4})
