"""Frozen layers and variables: they get no gradients and are not trained."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.layers import AvgPool2D, BatchNorm, Conv2D, Flatten, Input, Linear, ReLU, Residual, Sequential
from gpuconv.summary import summary
from gpuconv.training import Callback, Trainer
from tests.layers.layer_cases import fresh
from tests.layers.small_net import data, net_of, values
from tests.toy_run import same_arrays


def test_frozen_variables_are_state_but_not_trained():
    conv = fresh(Conv2D(2, 3, frozen="weight"), (3, 3, 1))
    assert list(conv.params()) == ["bias"]
    assert list(conv.buffers()) == ["weight"]
    assert list(conv.state_dict()) == ["weight", "bias"]
    conv.forward(np.ones((1, 3, 3, 1)))
    conv.backward(np.ones((1, 1, 1, 2)))
    assert list(conv.grads()) == ["bias"]
    assert "weight" not in conv.gradients
    assert conv.parameter_count == 20
    norm = fresh(BatchNorm(frozen=("weight",)), (2,))
    norm.forward(np.array([[1.0, 2.0], [4.0, 3.0]]), True)
    norm.backward(np.ones((2, 2)))
    assert norm.grads()["bias"].tolist() == [2, 2]
    assert list(norm.grads()) == ["bias"]
    with pytest.raises(ValueError, match="did you mean 'weight'"):
        fresh(Conv2D(2, 3, frozen=("wieght",)), (3, 3, 1))


def test_the_bias_of_an_fc_layer_with_a_frozen_weight_is_trained():
    built = fresh(Linear(3, frozen=("weight",)), (4,))
    x, dy = np.random.default_rng(2).normal(size=(5, 4)), np.random.default_rng(3).normal(size=(5, 3))
    for times in (1, 2):
        built.forward(x, True)
        np.testing.assert_allclose(built.backward(dy), dy @ built["weight"])
        np.testing.assert_allclose(built.grads()["bias"], times * dy.sum(0))
    assert built.gradients.keys() == {"bias"}


class Counting(layers.Layer):
    """The identity; counts its backward calls."""

    stem = "counting"
    backwards = 0

    def forward(self, x, training=False):
        return x

    def backward(self, dy, *, input_grad=True):
        type(self).backwards += 1
        return dy


def test_the_arrays_of_frozen_layers_are_not_among_the_params_and_are_not_trained():
    net = net_of()
    trainer = Trainer(net, "adam", lr=0.1)
    net.freeze()
    assert not net.params()
    assert not net.trainable
    net["fc1"].unfreeze()
    assert [*net.params()] == ["fc1.weight", "fc1.bias"] == [*net.grads()]
    assert "trained 140, frozen 147" in summary(net)
    before = values(net)
    trainer.fit(data(), epochs=2, progress=False)
    after = values(net)
    changed = {key for key in after if not np.array_equal(after[key], before[key])}
    assert changed == {"fc1.weight", "fc1.bias", "norm1.running_mean", "norm1.running_var"}
    net.unfreeze()
    assert "frozen" not in summary(net)
    trainer.fit(data(), epochs=3, progress=False)
    assert not np.array_equal(values(net)["conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
def test_a_callback_can_freeze_during_training_on_a_device_with_kernels(graph):
    class Freeze(Callback):
        def on_epoch(self, trainer, record):
            weights.append(values(trainer.net)["conv1.weight"])
            trainer.net["conv1"].frozen = True

    weights: list = []
    net = Sequential([Input((6, 6, 2)), Conv2D(2, 3), ReLU(), Flatten(), Linear(3)], device="emulated")
    images = gc.data.Dataset(
        (np.random.default_rng(0).random((8, 6, 6, 2)) * 255).astype(np.uint8), np.arange(8) % 3, ["a", "b", "c"]
    )
    trainer = Trainer(net, "sgd:momentum=0.9", lr=0.1, graph=graph)
    trainer.fit(images, epochs=3, batch_size=4, callbacks=[Freeze()], progress=False)
    np.testing.assert_array_equal(weights[0], weights[2])
    assert trainer.steps == 6


def test_layers_before_the_first_trained_one_get_no_backward():
    net = Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(2, 3),
            Counting(),
            Residual([Counting(), Conv2D(2, 3, padding=1), Counting()]),
            Residual([Counting(), Conv2D(2, 1)], [Conv2D(2, 1), Counting()]),
            Flatten(),
            Linear(3),
        ]
    )
    net.freeze()

    def backwards():
        Counting.backwards = 0
        y = net.forward(data()[0], training=True)
        net.backward(np.ones_like(y), input_grad=False)
        assert not any(layer.kept for layer in net.walk())
        return Counting.backwards

    assert backwards() == 0
    net["fc1"].frozen = False
    assert backwards() == 0
    net["residual2"].rows[1]["conv1"].unfreeze()
    assert backwards() == 1  # only the Counting layer of the shortcut
    net["conv1"].frozen = ("weight",)
    assert backwards() == 5
    net.unfreeze()
    assert backwards() == 5


def test_frozen_takes_names_of_variables_and_is_kept_in_configs_and_copies():
    conv = Conv2D(2, 3)
    conv.frozen = True
    assert conv.frozen is True
    conv.build((4, 4, 1))
    assert not conv.trainable
    conv.frozen = "weight"
    assert conv.frozen == ("weight",)
    assert [*conv.params()] == ["bias"]
    with pytest.raises(ValueError, match=r"unknown variable 'wieght'; did you mean 'weight'\?"):
        conv.frozen = ("wieght",)
    assert conv.frozen == ("weight",)
    for value in (np.False_, np.True_):
        conv.frozen = value
        assert conv.frozen == (True if value else ())
    net = net_of()
    net[:4].freeze()
    twin = layers.Layer.from_config(net.config())
    assert [*net.params()] == ["residual1.conv1.weight", "residual1.conv1.bias", "fc1.weight", "fc1.bias"]
    assert [*twin.params()] == [*net.params()]
    assert Sequential([Input((4, 4, 1)), Conv2D(2, 3, frozen=True)]).params() == {}
    assert not Sequential([Input((4, 4, 1)), Sequential([Conv2D(2, 3)], frozen=True)]).trainable
    assert net.fuse().params().keys() == net.params().keys()
    assert net.copy().params().keys() == net.params().keys()


def test_a_frozen_layer_and_the_pool_before_it_pass_the_gradient_on():
    net = Sequential([Input((6, 6, 2)), Conv2D(2, 3), AvgPool2D(2), Conv2D(2, 1), Flatten(), Linear(3)])
    trained = gradients_of(net)
    net["conv2"].freeze()
    assert same_arrays(gradients_of(net), {key: value for key, value in trained.items() if not key.startswith("conv2")})


def gradients_of(net):
    net.zero_grad()
    y = net.forward(data()[0], training=True)
    net.backward(np.ones_like(y), input_grad=False)
    return {key: value.copy() for key, value in net.grads().items()}


def test_an_empty_list_of_names_unfreezes_all_layers_inside():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3), Sequential([Conv2D(2, 1)])])
    net.freeze()
    net.frozen = ()
    assert len(net.params()) == 4
