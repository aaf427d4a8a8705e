"""Residual blocks fused with the batch norm at the end of their body and the activation after them."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.layers import (
    GELU,
    BatchNorm,
    Branches,
    Conv2D,
    Dropout,
    Input,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Residual,
    ResidualNorm,
    Sequential,
    SiLU,
    Tanh,
)
from gpuconv.layers.fused import ConvNorm
from gpuconv.layers.norm_chain import NormChain
from gpuconv.profiling import launches
from tests.tolerance import UNIT_ROUNDOFF


def conv_norm(filters, size=3, stride=1):
    return [Conv2D(filters, size, stride=stride, padding=size // 2, bias=False), BatchNorm()]


def residual_net(**options):
    """A block with an identity, one with a projection, one without an activation after it, a body that is a norm alone,
    and a body with a pool after its convolution. The gradient of the activation after this last block needs the
    activation's input."""
    return Sequential(
        [
            Input((8, 6, 3)),
            *conv_norm(5),
            ReLU(),
            Residual([*conv_norm(5), ReLU(), *conv_norm(5)]),
            ReLU(),
            Residual([*conv_norm(8, stride=2), ReLU(), *conv_norm(8)], conv_norm(8, size=1, stride=2)),
            ReLU(),
            Residual([*conv_norm(8, size=1), ReLU(), *conv_norm(8)]),
            Residual([BatchNorm()]),
            ReLU(),
            Residual([Conv2D(8, 3, padding=1, bias=False), MaxPool2D(2), BatchNorm()], [MaxPool2D(2)]),
            GELU(),
        ],
        seed=3,
        **options,
    )


def step(net, input_grad=True):
    """The output of a training step and of inference, the input's gradient and those of the parameters."""
    rng = np.random.default_rng(5)
    x = gc.asarray(rng.standard_normal((4, *net.input_shape)), net.device, net.dtype)
    y = net.forward(x, training=True)
    dy = gc.asarray(rng.standard_normal(y.shape), net.device, net.dtype)
    net.zero_grad()
    dx = net.backward(dy, input_grad=input_grad)
    results = [y, net.infer(x), *([dx] if input_grad else []), *net.grads().values()]
    return [gc.to_numpy(array).astype(np.float64) for array in results]


def test_blocks_that_end_in_a_norm_are_fused_with_it_and_the_relu_after_them():
    fused = residual_net().fuse()
    kinds = [type(layer).__name__ for layer in fused.layers]
    assert kinds == ["Input", "ConvNorm", *["ResidualNorm"] * 5, "GELU"]
    assert [layer.activation for layer in fused.layers[2:7]] == ["relu", "relu", None, "relu", None]


ENDINGS = {
    "a norm": lambda: [BatchNorm()],
    "a convolution and a norm": lambda: conv_norm(4),
    "norms in a row": lambda: [*conv_norm(4), *conv_norm(4)],
    "a ReLU between": lambda: [*conv_norm(4), ReLU(), *conv_norm(4)],
    "a ReLU and a norm": lambda: [Conv2D(4, 3, padding=1), ReLU(), BatchNorm()],
    "a depthwise convolution": lambda: [Conv2D(4, 3, padding=1, groups=4), BatchNorm()],
    "a pool": lambda: [Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm()],
    "a pool after groups": lambda: [Conv2D(4, 3, padding=1, groups=2), MaxPool2D(2), BatchNorm()],
    "a pool after a depthwise convolution": lambda: [Conv2D(4, 3, padding=1, groups=4), MaxPool2D(2), BatchNorm()],
    "a pool after a norm": lambda: [*conv_norm(4), Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm()],
    "a pool and a ReLU": lambda: [Conv2D(4, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm()],
    "a ReLU and a pool": lambda: [Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2), BatchNorm()],
    "a pool before a convolution": lambda: [Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm(), *conv_norm(4)],
    "an overlapping pool": lambda: [Conv2D(4, 3, padding=1), MaxPool2D(3, stride=2, padding=1), BatchNorm()],
    "a pool alone": lambda: [MaxPool2D(2), BatchNorm()],
}


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_of_a_body_trains_with_every_shortcut_and_activation(ending, device):
    size = 2 if "pool" in ending else 1
    shortcuts = [[Conv2D(4, 1, stride=size)], conv_norm(4, size=1, stride=size), [MaxPool2D(2)] if size == 2 else None]
    for activation, (number, norm_sums) in itertools.product(
        [None, ReLU, Tanh, LeakyReLU, GELU, SiLU], itertools.product(range(3), [None, True])
    ):
        results = []
        for fuse in (False, True):
            shortcut = copy.deepcopy(shortcuts[number])
            after = [activation()] if activation else []
            net = Sequential([Input((6, 4, 4)), Residual(ENDINGS[ending](), shortcut), *after], seed=2, device=device)
            net = net.fuse(norm_sums=norm_sums) if fuse else net
            results.append(step(net))
        assert isinstance(net.layers[1], ResidualNorm)
        joins_the_activation = activation in (ReLU, Tanh, LeakyReLU) and not pools_in_the_norm(net)
        assert (net.layers[1].activation is not None) == joins_the_activation
        for one, other in zip(*results, strict=True):
            assert np.abs(one - other).max() <= 64 * UNIT_ROUNDOFF["float32"] * max(1, np.abs(one).max())


def pools_in_the_norm(net):
    """Whether a pool is fused with the norm that ends the body."""
    body, _ = net.layers[1].layers[0].rows
    last = body.layers[-1]
    last = last.layers[-1] if isinstance(last, NormChain) else last
    return isinstance(last, ConvNorm) and last.pool == 2


@pytest.mark.parametrize(
    "block",
    [
        Residual([Conv2D(3, 1)]),
        Residual([*conv_norm(3), ReLU()]),
        Residual([*conv_norm(3), Dropout(0.5)]),
        Branches([conv_norm(3), []], merge="add"),
    ],
    ids=["ends in a convolution", "ends in an activation", "ends in dropout", "branches"],
)
def test_a_block_that_does_not_end_in_a_norm_stays_separate(block):
    fused = Sequential([Input((4, 4, 3)), block, ReLU()]).fuse()
    assert not any(isinstance(layer, ResidualNorm) for layer in fused.walk())


def test_a_block_with_a_hook_inside_stays_separate():
    net = residual_net()
    net["residual1.norm2"].register_forward_hook(lambda layer, x, y: None)
    assert type(net.fuse().layers[2]) is Residual


def test_numpy_gives_the_same_bits_fused_and_separate():
    net = residual_net()
    fused = net.fuse()
    assert list(fused.state_dict()) == list(net.state_dict())
    for one, other in zip(step(fused), step(residual_net()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.kernels
@pytest.mark.parametrize("norm_sums", [None, True], ids=["default", "norm sums in dgrad"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_kernels_agree_with_the_separate_layers(precision, norm_sums):
    net = residual_net(precision=precision, device="emulated")
    unit = UNIT_ROUNDOFF[precision]
    separate = step(residual_net(precision=precision, device="emulated"))
    for one, other in zip(step(net.fuse(norm_sums=norm_sums)), separate, strict=True):
        assert np.linalg.norm(one - other) <= 64 * unit * np.linalg.norm(other)


@pytest.mark.kernels
def test_the_sum_and_its_activation_need_no_launch():
    net = Sequential(
        [Input((8, 8, 4)), *conv_norm(4), ReLU(), Residual([*conv_norm(4), ReLU(), *conv_norm(4)]), ReLU()],
        device="emulated",
    )
    x = gc.asarray(np.ones((2, 8, 8, 4), np.float32), "emulated")
    with launches.record_launches() as launched:
        net.fuse().forward(x, training=True)
    assert [launch.kernel.name for launch in launched].count("batch_norm_normalize_addend") == 1
    assert not any(launch.kernel.name.startswith(("relu", "add_")) for launch in launched)


@pytest.mark.kernels
def test_the_gradients_of_the_body_and_of_the_shortcut_are_added_without_a_launch():
    net = residual_net(device="emulated").fuse()
    y = net.forward(gc.asarray(np.ones((2, 8, 6, 3), np.float32), "emulated"), training=True)
    with launches.record_launches() as launched:
        net.backward(y, input_grad=False)
    # Three blocks still need a launch: the block without an activation after it, the block whose body is a norm alone,
    # and the block whose shortcut is a pool.
    assert [launch.kernel.name for launch in launched].count("add_forward") == 3


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_backward_hooks_do_not_change_the_bits(precision):
    expected, net = step(residual_net(precision=precision).fuse()), residual_net(precision=precision).fuse()
    seen = []
    for layer in net.walk():
        layer.register_backward_hook(lambda layer, dx, dy: seen.append((layer.path, dx, np.array(dx))))
    for one, other in zip(step(net), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({path for path, _, _ in seen}) > 10
    for path, dx, dx_then in seen:
        np.testing.assert_array_equal(dx, dx_then, err_msg=path)


def test_a_frozen_body_still_passes_the_gradient_to_its_shortcut():
    def net():
        net = Sequential(
            [Input((4, 4, 3)), Residual([*conv_norm(5), ReLU(), *conv_norm(5)], conv_norm(5, size=1)), ReLU()], seed=1
        )
        for name in ("conv1", "norm1", "conv2", "norm2"):
            net[f"residual1.{name}"].freeze()
        return net

    for one, other in zip(step(net().fuse(), False), step(net(), False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_output_of_the_shortcut_is_released_after_forward():
    fused = Sequential([Input((4, 4, 3)), Residual([*conv_norm(5)], conv_norm(5, size=1)), ReLU()]).fuse()
    y = fused.forward(np.ones((2, 4, 4, 3), np.float32), training=True)
    (addend,) = fused.layers[1].kept
    assert addend.value is None
    assert addend.output is y


def test_a_trained_resnet_keeps_its_bits_when_it_is_fused():
    from gpuconv.training import Trainer

    results = []
    for fuse in (False, True):
        trainer = Trainer(gc.models.build("resnet20", seed=0), "sgd", lr=0.1, fuse=fuse)
        rng = np.random.default_rng(1)
        for _ in range(2):
            trainer.optimizer.advance()
            trainer.step(rng.standard_normal((4, 32, 32, 3)).astype(np.float32), rng.integers(0, 10, 4))
        results.append(trainer.net.state_dict())
    assert (results[0]["conv1.weight"] != gc.models.build("resnet20", seed=0)["conv1.weight"]).any()
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key], err_msg=key)


def test_a_user_can_call_the_op_that_the_block_runs():
    x, addend = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 5)).astype(np.float32)
    vectors = [np.ones(5, np.float32), np.zeros(5, np.float32), np.zeros(5, np.float32), np.ones(5, np.float32)]
    y, *_ = ops.batch_norm(x, *vectors, training=False, activation="relu", addend=addend, eps=0.0)
    np.testing.assert_array_equal(y, np.maximum(x + addend, 0))
