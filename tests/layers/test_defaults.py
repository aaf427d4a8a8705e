"""The defaults are those of a table, because other defaults would change the behavior of users' programs."""

from __future__ import annotations

import dataclasses

import pytest

from gpuconv import layers
from gpuconv.layers import LAYERS
from tests.defaults import IMMUTABLE_VALUE, dataclass_flags, defaults, expect_defaults

OURS = {name: kind for name, kind in LAYERS.items() if kind.__module__.startswith("gpuconv.")}

DEFAULTS = {
    "layers.base": {
        "Variable": dict(buffer=False, frozen=False, dtype="net"),
        "Layer": dict(name=None, frozen=()),
        "Layer.build": dict(seed=0, dtype=None, device=None, initialize=True, precision=None),
        "Layer.reset": dict(seed=0, dtype=None, device="numpy", precision=None),
        "weight_and_bias": dict(groups=1, outputs=None),
        "Layer.to": dict(device=None, dtype=None, precision=None),
    },
    "layers.input": {"Input": dict(larger=False)},
    "layers.residual": {"Residual": dict(shortcut=None)},
    "layers.sequential": {
        "Sequential": dict(seed=0, dtype=None, device=None, initialize=True, precision=None, share=False),
        "Sequential.reset": dict(seed=0, dtype=None, device="numpy", precision=None),
        "Sequential.predict": dict(batch_size=256, softmax=False, top=None, normalize=None),
        "Sequential.activations": dict(normalize=None),
        "Sequential.copy": dict(device=None, dtype=None, precision=None),
        "Sequential.fuse": dict(norm_sums=None),
    },
    "layers.conv": {
        "Conv2D": dict(
            stride=1,
            padding=0,
            dilation=1,
            groups=1,
            bias=True,
            fit="floor",
            algo="auto",
            weight_init="he_normal",
            bias_init="zeros",
        )
    },
    "layers.conv_transpose": {
        "ConvTranspose2D": dict(
            stride=1,
            padding=0,
            output_padding=0,
            dilation=1,
            groups=1,
            bias=True,
            algo="auto",
            weight_init="he_normal",
            bias_init="zeros",
        )
    },
    "layers.branches": {"Branches": dict(merge="concat")},
    "layers.upsample": {"Upsample": dict(mode="nearest")},
    "layers.linear": {"Linear": dict(bias=True, algo="auto", weight_init="he_normal", bias_init="zeros")},
    "layers.norm": {"BatchNorm": dict(momentum=0.1, eps=1e-5)},
    "layers.group_norm": {"GroupNorm": dict(eps=1e-5), "LayerNorm": dict(eps=1e-5)},
    "layers.pool": {
        "MaxPool2D": dict(stride=None, padding=0, fit="floor"),
        "AvgPool2D": dict(stride=None, padding=0, fit="floor", count_include_pad=True),
    },
    "layers.activation": {
        "LeakyReLU": dict(negative_slope=0.01),
        "ELU": dict(alpha=1.0),
        "GELU": dict(approximate="none"),
    },
    "layers.dropout": {"Dropout": dict(p=0.5)},
}


def test_defaults_are_those_of_the_table():
    of_every_layer = dict(name=None, frozen=())
    expect_defaults(
        {
            module: {name: options | (of_every_layer if name in OURS else {}) for name, options in found.items()}
            for module, found in DEFAULTS.items()
        }
    )


def test_the_table_has_every_option_of_every_layer():
    for kind in OURS.values():
        listed = DEFAULTS.get(kind.__module__.removeprefix("gpuconv."), {}).get(kind.__name__, {})
        assert defaults(kind).keys() - {"name", "frozen"} == listed.keys(), kind


def test_every_layer_runs_for_inference_and_gives_the_gradient_of_its_input_by_default():
    for name, kind in OURS.items():
        assert defaults(kind.forward)["training"] is False, name
        assert defaults(kind.backward)["input_grad"] is True, name
        assert (defaults(kind)["name"], defaults(kind)["frozen"]) == (None, ()), name


def test_layers_compare_by_identity_and_declared_variables_are_immutable():
    assert dict(dataclass_flags(["layers.base:Variable"])) == {"layers.base:Variable": IMMUTABLE_VALUE}
    for kind in OURS.values():
        if dataclasses.is_dataclass(kind):
            assert not kind.__dataclass_params__.eq, kind
            assert kind.__hash__ is object.__hash__, kind


def test_options_of_layers_without_sizes_are_keyword_only():
    for kind in (layers.BatchNorm, layers.LeakyReLU, layers.GELU, layers.ReLU):
        with pytest.raises(TypeError, match="positional"):
            kind("a name")
