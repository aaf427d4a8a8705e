"""Batch norm fused with the convolution before it and the activation after it."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import (
    GELU,
    BatchNorm,
    Conv2D,
    Flatten,
    Input,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from tests.devices import DEVICES
from tests.layers.steps import kinds, step_arrays


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [ReLU, GELU, LeakyReLU])
def test_batch_norm_and_an_activation_are_fused_with_the_same_bits(device, activation):
    def net():
        layers = [Input((6, 6, 2)), MaxPool2D(2), BatchNorm(), activation(), BatchNorm()]
        return Sequential(layers, device=device, seed=4)

    plain, fused = net(), net().fuse()
    assert kinds(fused) == ["Input", "MaxPool2D", "NormActivation", "BatchNorm"]
    for expected, from_fused in zip(step_arrays(plain), step_arrays(fused), strict=True):
        np.testing.assert_array_equal(from_fused, expected)
    for name, expected in plain.buffers().items():
        np.testing.assert_array_equal(gc.to_numpy(fused.buffers()[name]), gc.to_numpy(expected))


def test_batch_norm_is_not_fused_with_a_leaky_relu_of_another_slope_than_the_default():
    leaky = Sequential([Input((4,)), BatchNorm(), LeakyReLU(negative_slope=0.3)])
    assert kinds(leaky.fuse()) == kinds(leaky)


def test_a_depthwise_convolution_is_not_fused_with_its_norm():
    def fused(groups, *layers_after):
        return Sequential([Input((6, 6, 4)), Conv2D(4, 3, groups=groups), BatchNorm(), *layers_after]).fuse()

    assert kinds(fused(4)) == ["Input", "Conv2D", "BatchNorm"]
    assert kinds(fused(4, ReLU())) == ["Input", "Conv2D", "NormActivation"]
    assert kinds(fused(2)) == kinds(fused(2, ReLU())) == ["Input", "ConvNorm"]


@pytest.mark.parametrize("device", DEVICES)
def test_convolutions_fused_with_batch_norm_give_the_same_results(device):
    def net():
        return Sequential(
            [
                Input((7, 6, 3)),
                Conv2D(8, 3, padding=1, bias=False),
                BatchNorm(),
                ReLU(),
                Residual([Conv2D(8, 3, padding=1, bias=False), BatchNorm()]),
                Conv2D(4, 3, bias=False),
                BatchNorm(),
                GELU(),
                Flatten(),
                Linear(3),
            ],
            device=device,
            seed=4,
        )

    plain, fused = net(), net().fuse()
    assert kinds(fused) == ["Input", "ConvNorm", "ResidualNorm", "ConvNorm", "Flatten", "Linear"]
    assert kinds(fused[2].layers[0].rows[0]) == ["ConvNorm"]
    for expected, from_fused in zip(step_arrays(plain), step_arrays(fused), strict=True):
        np.testing.assert_allclose(from_fused, expected, rtol=1e-4, atol=1e-5)  # some gradients cancel to zero
    for name, expected in plain.buffers().items():
        np.testing.assert_allclose(gc.to_numpy(fused.buffers()[name]), gc.to_numpy(expected), rtol=1e-5, atol=1e-6)
    x = gc.asarray(np.random.default_rng(3).standard_normal((2, 7, 6, 3)).astype(np.float32), device)
    plain.load_state_dict(fused.state_dict())
    np.testing.assert_array_equal(gc.to_numpy(fused.predict(x)), gc.to_numpy(plain.predict(x)))


@pytest.mark.parametrize("device", DEVICES)
def test_convolutions_fused_with_a_pool_and_batch_norm_give_the_same_results(device):
    """The four layers after the input are the first half of a block of airbench94. Maps have odd sizes, a layer has
    groups, and the last pool has no norm."""

    def net():
        layers = [
            Input((15, 13, 3)),
            *(Conv2D(6, 3, padding=1, bias=False), MaxPool2D(2), BatchNorm(), GELU()),
            *(Conv2D(8, 2, groups=2), MaxPool2D(2), BatchNorm(frozen=("weight",))),
            *(Conv2D(5, 2, padding=1), MaxPool2D(2)),
            *(Flatten(), Linear(3)),
        ]
        return Sequential(layers, device=device, seed=4)

    plain, fused = net(), net().fuse()
    assert kinds(fused) == ["Input", "ConvNorm", "ConvNorm", "ConvPool", "Flatten", "Linear"]
    for expected, from_fused in zip(step_arrays(plain), step_arrays(fused), strict=True):
        np.testing.assert_allclose(from_fused, expected, rtol=1e-4, atol=1e-5)  # some gradients cancel to zero
    for name, expected in plain.buffers().items():
        np.testing.assert_allclose(gc.to_numpy(fused.buffers()[name]), gc.to_numpy(expected), rtol=1e-5, atol=1e-6)
    x = gc.asarray(np.random.default_rng(3).standard_normal((2, 15, 13, 3)).astype(np.float32), device)
    plain.load_state_dict(fused.state_dict())
    np.testing.assert_array_equal(gc.to_numpy(fused.predict(x)), gc.to_numpy(plain.predict(x)))
    gradients = []
    for tested in (plain, fused):
        y = tested.forward(x, training=False)  # so forward and backward use the running statistics
        gradients.append(gc.to_numpy(tested.backward(y)))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_airbench94_fuses_each_pool_between_a_convolution_and_a_norm():
    blocks = gc.models.build("airbench94", initialize=False).fuse().walk()
    pools = [layer.pool for layer in blocks if type(layer).__name__ == "ConvNorm"]
    assert pools == [2, 1, 2, 1, 2, 1]
