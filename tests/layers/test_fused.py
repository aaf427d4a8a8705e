"""Convolutions fused with the activation and the pool after them: the same results and parameters, fewer launches."""

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
    Sigmoid,
    SiLU,
)
from gpuconv.layers.activation import Activation
from gpuconv.layers.fused import ConvActivation, ConvNorm, ConvPool, ConvReLU, NormActivation
from gpuconv.layers.fused_residual import ResidualNorm
from gpuconv.layers.norm_chain import NormChain
from gpuconv.profiling import launches
from gpuconv.summary import summary
from tests.devices import DEVICES
from tests.layers.steps import kinds, step_arrays


def odd_net(**options):
    """A net with maps of odd sizes. Some convolutions are fused with an activation, and some of them with a pool too.
    The other layers stay separate."""
    return Sequential(
        [
            Input((15, 13, 3)),
            Conv2D(6, 3, padding=1),
            ReLU(),
            MaxPool2D(2),
            Conv2D(6, (3, 2), groups=2, padding=1),
            MaxPool2D(2),
            ReLU(),
            Residual([Conv2D(6, 3, padding=1), ReLU(), Conv2D(6, 3, padding=1)], [Conv2D(6, 1, bias=False), Sigmoid()]),
            Sequential([Conv2D(8, 3, padding=1), LeakyReLU()]),
            Conv2D(5, 2, padding=1),
            LeakyReLU(negative_slope=0.2),
            Conv2D(4, 1),
            GELU(),
            Conv2D(4, 2),
            ReLU(),
            MaxPool2D(3, stride=1),
            Flatten(),
            Linear(3),
        ],
        **options,
    )


def test_convolutions_are_fused_with_the_activation_and_the_pool_after_them():
    net = odd_net().fuse()
    assert kinds(net) == [
        "Input",
        "ConvReLU",
        "ConvReLU",
        "Residual",
        "Sequential",
        "Conv2D",
        "LeakyReLU",
        "ConvActivation",
        "ConvReLU",
        "MaxPool2D",
        "Flatten",
        "Linear",
    ]
    assert [layer.pool for layer in net if isinstance(layer, ConvReLU)] == [2, 2, 1]
    body, shortcut = net[3].rows
    assert (kinds(body), kinds(shortcut)) == (["ConvReLU", "Conv2D"], ["ConvActivation"])
    assert isinstance(net[4][0], ConvActivation)
    assert net[1].name == "conv1+relu1+pool1"


@pytest.mark.parametrize(
    "pool", [MaxPool2D(3), MaxPool2D(2, stride=1), MaxPool2D(2, padding=1), MaxPool2D(2, fit="cover")]
)
def test_only_pools_of_whole_2x2_windows_without_overlap_or_padding_are_fused(pool):
    net = Sequential([Input((7, 8, 2)), Conv2D(3, 3, padding=1), ReLU(), pool])
    assert kinds(net.fuse()) == ["Input", "ConvReLU", "MaxPool2D"]
    net = Sequential([Input((7, 8, 2)), Conv2D(3, 3, padding=1), pool, BatchNorm()])
    assert kinds(net.fuse()) == kinds(net)
    even = Sequential([Input((8, 8, 2)), Conv2D(3, 1), ReLU(), MaxPool2D(2, fit="cover")])
    assert kinds(even.fuse()) == ["Input", "ConvReLU"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_fused_net_gives_the_same_results(device):
    net = odd_net(device=device, seed=2)
    fused = net.fuse()
    for plain, from_fused in zip(step_arrays(net), step_arrays(fused), strict=True):
        np.testing.assert_allclose(from_fused, plain, rtol=2e-5, atol=2e-5 * np.abs(plain).max())
    # Scores and input gradients have the same bits.
    for plain, from_fused in zip(step_arrays(net)[:2], step_arrays(fused)[:2], strict=True):
        np.testing.assert_array_equal(from_fused, plain)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [GELU, Sigmoid])
@pytest.mark.parametrize("input_grad", [False, True])
def test_with_a_frozen_weight_the_bias_is_trained_through_a_fused_gelu_or_sigmoid(
    device, activation, input_grad, monkeypatch
):
    layers = [Input((6, 5, 3)), Conv2D(4, 2, frozen=("weight",)), activation(), Flatten(), Linear(3)]
    net = Sequential(layers, device=device, seed=1)
    fused = net.fuse()
    assert kinds(fused) == ["Input", "ConvActivation", "Flatten", "Linear"]
    rng, called = np.random.default_rng(4), []
    x, dy = (gc.asarray(rng.standard_normal(shape).astype(np.float32), device) for shape in ((2, 6, 5, 3), (2, 3)))
    results = []
    backward = f"{activation.op}_backward"
    op = getattr(gc.ops, backward)
    for tested in (net, fused):

        def recorded(*arrays, tested=tested, **_):
            called.append(tested)
            return op(*arrays)

        monkeypatch.setattr(gc.ops, backward, recorded)
        tested.zero_grad()
        tested.forward(x, training=True)
        dx = tested.backward(dy, input_grad=input_grad)
        monkeypatch.undo()
        results.append({key: gc.to_numpy(value).copy() for key, value in tested.grads().items()})
        assert (dx is not None) == input_grad
    assert called == ([net, fused] if input_grad else [net])  # without input_grad, the fused layer calls bias_grad
    assert results[0].keys() == results[1].keys() == set(net.grads())
    for key, plain in results[0].items():
        np.testing.assert_allclose(results[1][key], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_activation_that_keeps_its_input_is_fused_with_the_same_bits(device, dtype):
    """All bits equal the unfused net's. One launch computes a convolution and stores both the input and the output of
    its activation; a depthwise convolution needs a second launch for the activation. A GELU with the tanh
    approximation is not fused."""
    layers = [
        Input((6, 5, 3)),
        Conv2D(4, 2),
        GELU(),
        Conv2D(4, 2, groups=4),
        SiLU(),
        Conv2D(3, 1),
        GELU(approximate="tanh"),
    ]
    net = Sequential(layers, device=device, seed=1, dtype=dtype)
    fused = net.fuse()
    assert kinds(fused) == ["Input", "ConvActivation", "ConvActivation", "Conv2D", "GELU"]
    for plain, from_fused in zip(step_arrays(net), step_arrays(fused), strict=True):
        np.testing.assert_array_equal(from_fused, plain)
    with launches.record_launches() as launched:
        fused.forward(gc.asarray(np.ones((1, 6, 5, 3)), device, net.dtype))
    # One for the first pair, two for the depthwise convolution and its SiLU, two for the layers that stay separate.
    assert len(launched) == (5 if device == "emulated" else 0)


class DoubledReLU(ReLU, op="relu"):
    def forward(self, x, training=False, *, out=None):
        return 2 * super().forward(x, training)


class SlopeOf(Activation, op="leaky_relu"):
    """Its constructor has no default."""

    def __init__(self, slope, **options):
        super().__init__(**options)
        self.slope = slope


class DoubledResidual(Residual):
    def forward(self, x, training=False):
        return 2 * super().forward(x, training)


def test_layers_that_a_user_derives_from_ours_run_their_own_code_in_a_fused_net():
    class Kernel1(Conv2D):
        def forward(self, x, training=False, *, out=None):
            return 0 * super().forward(x, training)

    for make in (
        lambda: [Conv2D(3, 1), DoubledReLU()],
        lambda: [Conv2D(3, 1), BatchNorm(), DoubledReLU()],
        lambda: [BatchNorm(), DoubledReLU()],
        lambda: [Residual([Conv2D(3, 1), BatchNorm()]), DoubledReLU()],
        lambda: [DoubledResidual([Conv2D(3, 1), BatchNorm()]), ReLU()],
        lambda: [Kernel1(3, 1), BatchNorm(), ReLU()],
    ):
        net = Sequential([Input((4, 4, 3)), *make()], seed=1)
        x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
        expected = net.copy().forward(x, True)
        assert np.abs(expected).max() > 0 or "Kernel1" in kinds(net)
        np.testing.assert_array_equal(net.fuse().forward(x, True), expected)
    layers = [Conv2D(3, 1), SlopeOf(3.0)]
    assert not ConvActivation.fits(layers)


def test_a_fused_net_has_the_same_keys_and_arrays():
    net = odd_net()
    fused = net.fuse()
    for method in ("state_dict", "params", "grads", "buffers"):
        plain, from_fused = getattr(net, method)(), getattr(fused, method)()
        assert list(plain) == list(from_fused)
        assert all(plain[key] is from_fused[key] for key in plain)
    assert fused.parameter_count == net.parameter_count
    other = odd_net(seed=5)
    fused.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(net["conv1"]["weight"], other["conv1"]["weight"])


def test_a_fused_net_has_the_same_precision():
    tf32 = odd_net().to(precision="tf32")
    assert tf32.fuse().precision == tf32["conv1"].precision == "tf32"


def test_a_fused_net_can_be_copied_fused_again_and_summarized():
    fused = odd_net(seed=3).fuse()
    twin = fused.copy(dtype="float64")
    assert kinds(twin) == kinds(fused)
    assert list(twin.state_dict()) == list(fused.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 15, 13, 3)).astype(np.float32)
    np.testing.assert_allclose(twin.predict(x.astype(np.float64)), fused.predict(x), rtol=1e-4, atol=1e-5)
    assert kinds(fused.fuse()) == kinds(fused)
    assert summary(fused).splitlines()[-1] == summary(odd_net()).splitlines()[-1]


def test_a_fused_net_refuses_backward_without_a_training_forward():
    fused = odd_net().fuse()
    fused.predict(np.zeros((2, 15, 13, 3), np.float32))
    with pytest.raises(RuntimeError, match="each forward serves one backward"):
        fused.backward(np.zeros((2, 3), np.float32))


def test_with_a_frozen_weight_the_bias_gets_the_gradient_of_the_unfused_net():
    layers = [Input((6, 6, 2)), Conv2D(3, 3, frozen=("weight",)), ReLU(), MaxPool2D(2)]
    net = Sequential(layers, dtype="float64")
    fused = net.fuse()
    assert list(fused.grads()) == ["conv1.bias"]
    (_, _, plain), (_, _, from_fused) = step_arrays(net), step_arrays(fused)
    np.testing.assert_allclose(from_fused, plain, rtol=1e-13)  # a sum of 48 numbers, in another order


def test_a_fused_convolution_with_a_3x3_pool_is_refused():
    with pytest.raises(ValueError, match="ConvReLU cannot replace"):
        ConvReLU([Conv2D(3, 3), ReLU(), MaxPool2D(3)]).build((7, 7, 2))


@pytest.mark.parametrize(
    "kind", [ConvReLU, ConvPool, ConvActivation, ConvNorm, NormActivation, NormChain, ResidualNorm]
)
def test_a_fused_layer_without_layers_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} cannot replace \[\]"):
        Sequential([Input((4, 4, 1)), kind([])])


def test_fuse_refuses_a_net_that_is_not_built():
    with pytest.raises(RuntimeError, match="fused after it is built"):
        Sequential([Conv2D(3, 3), ReLU()]).fuse()


def test_a_depthwise_convolution_is_not_fused_with_a_pool():
    net = Sequential([Input((6, 6, 4)), Conv2D(4, 3, groups=4), ReLU(), MaxPool2D(2)])
    assert kinds(net.fuse()) == ["Input", "ConvActivation", "MaxPool2D"]
    net = Sequential([Input((6, 6, 4)), Conv2D(4, 3, groups=4), MaxPool2D(2), BatchNorm()])
    assert kinds(net.fuse()) == kinds(net)


@pytest.mark.kernels
def test_a_trainer_fuses_by_default_only_on_a_device_with_kernels(monkeypatch):
    ran, forward = [], ConvReLU.forward

    def recorded(self, x, training=False):
        ran.append(self.path)
        return forward(self, x, training)

    monkeypatch.setattr(ConvReLU, "forward", recorded)
    weights = []
    for device, fuse in (("numpy", None), ("numpy", True), ("emulated", None), ("emulated", False)):
        net = gc.models.build("seed-net", (8, 8, 1), 3, device=device)
        trainer = gc.training.Trainer(net, "sgd", lr=0.1, fuse=fuse)
        trainer.optimizer.advance(0.1)
        x, labels = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32), np.arange(4) % 3
        trainer.step(gc.asarray(x, device), gc.asarray(labels, device))
        assert ran == (["conv1+relu1+pool1"] if fuse or (fuse is None and device == "emulated") else [])
        ran.clear()
        weights.append(gc.to_numpy(net["conv1"]["weight"]))
    for weight in weights[1:]:
        np.testing.assert_allclose(weight, weights[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_convolution_with_fit_cover_is_fused_with_its_activation(device):
    for activation in (ReLU(), Sigmoid()):
        layers = [Input((5, 6, 2)), Conv2D(3, 2, stride=2, fit="cover"), activation]
        net = Sequential(layers, device=device)
        fused = net.fuse()
        assert len(fused) == 2
        x = gc.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 2)).astype(np.float32), device)
        expected, from_fused = (gc.to_numpy(tested.infer(x)) for tested in (net, fused))
        assert from_fused.shape == (2, 3, 3, 3)
        np.testing.assert_array_equal(from_fused, expected)
