"""PyTorch's counterpart of a net computes the same as the net; a layer without a counterpart is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import layers

pytest.importorskip("torch")

from bench.peers.pytorch import tensor, to_host
from bench.peers.pytorch_net import module


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPool2D(3, stride=1, padding="same"),
        layers.AvgPool2D(3, padding=1, count_include_pad=False),
        layers.AdaptiveAvgPool2D((7, 1)),
        layers.GroupNorm(2),
    ],
    ids=repr,
)
def test_a_layers_counterpart_computes_the_same(layer):
    net = layers.Sequential([layers.Input((7, 5, 4)), layer], seed=0)
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 4), dtype=np.float32)
    np.testing.assert_allclose(to_host(module(net)(tensor(x, "numpy"))), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 2, padding="same"),
        layers.Conv2D(4, 3, stride=2, fit="cover"),
        layers.MaxPool2D(2, padding=((0, 1), (0, 1))),
        layers.MaxPool2D(2, fit="cover"),
        layers.AvgPool2D(2, fit="cover"),
        layers.Upsample(2),
    ],
    ids=repr,
)
def test_a_layer_without_a_counterpart_is_refused(layer):
    net = layers.Sequential([layers.Input((7, 7, 4)), layer], seed=0)
    with pytest.raises(ValueError, match=r"PyTorch"):
        module(net)
