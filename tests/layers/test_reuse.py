"""Layers of one net in another, slices, and layers that are frozen after they were built."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from gpuconv.summary import summary
from gpuconv.training import Callback, Trainer


def net_of(**options):
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(3, 3, padding=1),
            BatchNorm(),
            ReLU(),
            Residual([Conv2D(3, 3, padding=1), ReLU()]),
            MaxPool2D(2),
            Flatten(),
            Linear(5),
        ],
        **options,
    )


def values(net):
    return {key: gc.to_numpy(array).copy() for key, array in net.state_dict().items()}


def same_values(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def data(count=16):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 6, 6, 2)).astype("f4"), random.integers(0, 3, count)


@pytest.mark.parametrize(
    "options", [{}, {"device": "emulated"}, {"precision": "bfloat16"}], ids=["defaults", "emulated", "bfloat16"]
)
def test_a_new_head_leaves_the_pretrained_layers_as_they_are_in_both_nets(options):
    net = net_of(seed=3, **options)
    before = values(net)
    new = Sequential([*net[:-1], Linear(3)])
    assert same_values(values(net), before)
    without_head = {key: value for key, value in values(new).items() if not key.startswith("fc")}
    assert same_values(without_head, {key: value for key, value in before.items() if not key.startswith("fc")})
    assert (new.device, new.precision) == (net.device, net.precision)
    assert new.output_shape == (3,)
    assert np.abs(gc.to_numpy(new["fc1"]["weight"]).astype("f4")).max() > 0


def test_nets_share_a_layer_only_on_request():
    net = net_of()
    before = values(net)
    Trainer(Sequential([*net[:-1], Linear(3)]), lr=0.1).fit(data(), epochs=1, progress=False)
    Trainer(Sequential([net[:-1], Linear(3)]), lr=0.1).fit(data(), epochs=1, progress=False)
    Sequential([Input((6, 6, 2)), Residual(net[1:2], [Conv2D(3, 1)])])["residual1"].rows[0]["conv1"]["weight"][...] = 0
    assert same_values(values(net), before)
    shared = Sequential([*net[:-1], Linear(3)], share=True)
    assert shared["conv1"] is net["conv1"]
    assert same_values(values(net), before)
    Trainer(shared, lr=0.1).fit(data(), epochs=1, progress=False)
    assert not np.array_equal(values(net)["conv1.weight"], before["conv1.weight"])


def test_a_slice_is_a_net_of_the_same_layers():
    net = net_of()
    x, _ = data()
    part = net[:-1]
    assert [*part] == list(net)[:-1]
    np.testing.assert_array_equal(net[-1:].forward(part.forward(x)), net.forward(x))
    np.testing.assert_array_equal(net[3:][-1]["weight"], net["fc1"]["weight"])
    assert net[1:3].output_shape == (6, 6, 3)
    assert [*net[1:3].state_dict()] == [
        f"{name}.{key}"
        for name, keys in (("conv1", "weight bias"), ("norm1", "weight bias running_mean running_var"))
        for key in keys.split()
    ]
    assert len(net) == 8
    assert net[np.int64(-1)] is net["fc1"]
    with pytest.raises(ValueError, match="none of the 8 layers is in 8:9"):
        net[8:9]
    with pytest.raises(TypeError):
        net[1.0]
    unbuilt = Sequential([Linear(4), ReLU(), Linear(2)])
    assert len(unbuilt[:2]) == 2


def test_a_slice_does_not_disturb_a_pending_backward():
    net = net_of()
    y = net.forward(data()[0], training=True)
    net[:4]
    net.backward(np.ones_like(y), input_grad=False)
    assert any(np.any(gradient) for gradient in net.grads().values())


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


def test_weights_for_another_input_are_refused_before_anything_changes():
    net = net_of()
    before, paths = values(net), [layer.path for layer in net.walk()]
    for share in (False, True):
        with pytest.raises(
            ValueError,
            match=r"fc1: the layer has weights already, for another input: weight of shape "
            r"\(5, 27\) must be of shape \(5, 108\).*put a new layer there",
        ):
            Sequential([*net[:5], *net[6:]], share=share)
        assert same_values(values(net), before)
        assert [layer.path for layer in net.walk()] == paths
        np.testing.assert_array_equal(net.forward(data()[0]), net_of().forward(data()[0]))


def test_build_keeps_weights_and_reset_draws_new_ones():
    net = Sequential([*net_of(seed=3)[1:3], Flatten(), Linear(4)])
    assert net.output_shape == (4,)  # the first layer knows its input
    before = net["conv1"]["weight"].copy()
    net.build((6, 6, 2), seed=9)
    np.testing.assert_array_equal(net["conv1"]["weight"], before)
    assert net["fc1"]["weight"].shape == (4, 108)
    net.build((6, 6, 2), dtype="float64")
    assert net["conv1"]["weight"].dtype == np.float64
    net.reset(seed=9)
    assert not np.array_equal(net["conv1"]["weight"], before)


def test_dropouts_from_two_nets_draw_different_masks():
    one, two = (Sequential([Input((50,)), Dropout(0.5)]) for _ in range(2))
    joined = Sequential([one[0], one[1], two[1]])
    masks = [joined[1].forward(np.ones((1, 50), "f4"), True), joined[2].forward(np.ones((1, 50), "f4"), True)]
    assert not np.array_equal(*masks)


# --- frozen layers -----------------------------------------------------------------------------


class Counting(layers.Layer):
    """The identity; counts its backward calls."""

    stem = "counting"
    backwards = 0

    def forward(self, x, training=False):
        return x

    def backward(self, dy, *, input_grad=True):
        type(self).backwards += 1
        return dy


def test_frozen_layers_have_no_parameters_and_are_not_trained():
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
    assert backwards() == 1  # the shortcut's alone
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
    net = net_of()
    net[:4].freeze()
    twin = layers.Layer.from_config(net.config())
    assert [*net.params()] == ["residual1.conv1.weight", "residual1.conv1.bias", "fc1.weight", "fc1.bias"]
    assert [*twin.params()] == [*net.params()]
    assert Sequential([Input((4, 4, 1)), Conv2D(2, 3, frozen=True)]).params() == {}
    assert not Sequential([Input((4, 4, 1)), Sequential([Conv2D(2, 3)], frozen=True)]).trainable
    assert net.fuse().params().keys() == net.params().keys()
    assert net.copy().params().keys() == net.params().keys()


def test_a_pool_between_frozen_layers_passes_the_gradient_on():
    net = Sequential([Input((6, 6, 2)), Conv2D(2, 3), AvgPool2D(2), Conv2D(2, 1), Flatten(), Linear(3)])
    trained = gradients_of(net)
    net["conv2"].freeze()
    assert same_values(gradients_of(net), {key: value for key, value in trained.items() if not key.startswith("conv2")})


def gradients_of(net):
    net.zero_grad()
    y = net.forward(data()[0], training=True)
    net.backward(np.ones_like(y), input_grad=False)
    return {key: value.copy() for key, value in net.grads().items()}


def test_a_slice_with_a_step_is_refused_and_changes_nothing():
    """A slice shares its layers, whose shapes depend on the layers before them."""
    net = Sequential([Input((8, 8, 3)), Conv2D(3, 3, padding=1), MaxPool2D(2), Conv2D(3, 3, padding=1), ReLU()])
    shapes = [(layer.path, layer.input_shape, layer.output_shape) for layer in net]
    for step in (slice(None, None, 2), slice(None, None, -1), slice(4, 0, -2)):
        with pytest.raises(ValueError, match=r"step must be 1, received .*Sequential\(\[\.\.\.\]\) copies"):
            net[step]
    assert [(layer.path, layer.input_shape, layer.output_shape) for layer in net] == shapes
    assert [layer.name for layer in net[1:4:1]] == ["conv1", "pool1", "conv2"]
