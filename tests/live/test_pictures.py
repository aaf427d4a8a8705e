"""The contents of the frames that the page receives."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.initializers import he_normal
from gpuconv.layers import (
    Branches,
    Conv2D,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Variable,
)
from gpuconv.live import pictures
from tests.live.sessions import unpack


@pytest.fixture
def net():
    layers = [Conv2D(12, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(7), ReLU(), Linear(3)]
    return Sequential([Input((6, 8, 3)), *layers], seed=1)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(1, 6, 8, 3)).astype(np.float32)


def test_activations_are_the_first_slices_of_each_volume(net, x):
    volumes, scores = pictures.activations(net, x)
    found = {volume.layer: volume for volume in volumes}
    assert [*found] == ["conv1", "relu1", "pool1", "fc1", "relu2", "fc2"]
    y = net["conv1"].infer(x)[0]
    assert np.array_equal(found["conv1"].slices, y.transpose(2, 0, 1)[:10])
    assert found["fc1"].slices.shape == (7, 1, 1)
    assert np.array_equal(scores, net.infer(x))


def test_gradients_are_those_of_the_loss(net, x):
    from gpuconv import losses

    loss = losses.get("softmax")
    found = {volume.layer: volume for volume in pictures.gradients(net, x, 2, loss)}
    y = np.array([2])
    for name, after in (("conv1", 2), ("fc1", 6)):
        volume = net[:after].infer(x)
        step = np.zeros_like(volume)
        step[(0,) * volume.ndim] = 1e-2
        rest = net[after:]
        higher, lower = (float(loss(rest.infer(volume + sign * step), y)[0]) for sign in (1, -1))
        assert found[name].slices[0, 0, 0] == pytest.approx((higher - lower) / 2e-2, abs=2e-3)


NESTED = [
    Conv2D(4, 3, padding=1),
    Residual([Conv2D(4, 3, padding=1), ReLU(), Sequential([Conv2D(4, 1)])]),
    Branches([[], [Conv2D(2, 1), Branches([[ReLU()], [Conv2D(2, 1)]], "add")]]),
    Flatten(),
    Linear(3),
]
NAMES = [
    *("conv1", "residual1.conv1", "residual1.relu1", "residual1.block1.conv1", "residual1"),
    *("branches1.branch2.conv1", "branches1.branch2.branches1.branch1.relu1"),
    *("branches1.branch2.branches1.branch2.conv1", "branches1.branch2.branches1", "branches1", "fc1"),
]


def test_inner_layers_are_shown_under_the_names_that_inspect_explain_accepts(x):
    from gpuconv import inspect, losses

    net = Sequential([Input((6, 8, 3)), *NESTED], seed=1)
    shown = {volume.layer: volume for volume in pictures.activations(net, x)[0]}
    assert [*shown] == NAMES
    for name, volume in shown.items():
        at = tuple(size - 1 for size in volume.shape)
        value = volume.slices[at[-1], -1, -1]
        assert inspect.explain(net, x, name, at).value == pytest.approx(value), name
    assert [volume.layer for volume in pictures.filters(net)] == [
        name for name in NAMES if "conv" in name or "fc" in name
    ]
    sent = {volume.layer: volume for volume in pictures.gradients(net, x, 2, losses.get("softmax"))}
    assert sorted(sent) == sorted(NAMES)
    # Both summands get the gradient of the sum, and a branch gets its slice of the concatenation's gradient.
    assert np.array_equal(sent["residual1"].slices, sent["residual1.block1.conv1"].slices)
    assert np.array_equal(sent["branches1"].slices[4:], sent["branches1.branch2.branches1"].slices)
    assert not any(array.any() for array in net.grads().values())


def test_the_channels_of_a_filter_are_arranged_in_a_square(net):
    found = {volume.layer: volume for volume in pictures.filters(net)}
    weight = net["conv1"]["weight"]
    assert found["conv1"].slices.shape == (10, 7, 7)
    assert np.array_equal(found["conv1"].slices[4, :3, 4:], weight[4, ..., 1])
    assert np.array_equal(found["conv1"].slices[4, 4:, :3], weight[4, ..., 2])
    behind_flatten = net["fc1"]["weight"].reshape(7, 3, 4, 12)
    assert np.array_equal(found["fc1"].slices[2, :3, :4], behind_flatten[2, ..., 0])


def test_a_packed_frame_holds_its_header_slices_and_images():
    slices = np.array([[[-2.0, 0.0], [1.0, 2.0]]], np.float32)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    data = pictures.pack({"kind": "x"}, [pictures.Volume("a", (2, 2, 1), slices, 1)], [image])
    head, content = unpack(data)
    assert (head["kind"], head["images"]) == ("x", [[2, 2, 3]])
    layer = head["layers"][0]
    values = np.frombuffer(content[:4], np.int8).reshape(layer["size"])
    assert np.abs(values / 127 * layer["scale"] - slices).max() <= layer["scale"] / 127
    assert content[4:] == image.tobytes()


def test_large_slices_are_subsampled_and_nan_is_dark():
    volume = pictures._volume("a", np.zeros((1, 200, 100, 3), np.float32))
    assert (volume.slices.shape, volume.step) == ((3, 50, 25), 4)
    broken = pictures.Volume("a", (1,), np.full((1, 1, 1), np.nan, np.float32), 1)
    assert pictures.pack({}, [broken])[-1] == 0


def test_a_weight_without_a_column_for_each_value_of_the_input_is_shown_by_its_columns():
    class OfChannels(Layer):
        def plan(self, input_shape):
            self.variables = {"weight": Variable((4, input_shape[-1]), he_normal)}
            return (*input_shape[:-1], 4)

        def forward(self, x, training=False):
            return x @ self["weight"].T

        def backward(self, dy, *, input_grad=True):
            return dy @ self["weight"]

    (shown,) = pictures.filters(Sequential([Input((6, 8, 3)), OfChannels()], seed=0))
    assert (shown.shape, shown.slices.shape) == ((4, 3), (4, 3, 3))


def test_at_most_ten_values_of_a_sequence_are_shown():
    class Rows(Layer):
        def plan(self, input_shape):
            return 12, 5

        def forward(self, x, training=False):
            return x.reshape(-1, 12, 5)

        def backward(self, dy, *, input_grad=True):
            return dy.reshape(-1, 60)

    x = np.arange(60, dtype=np.float32)[None]
    ((shown,), _) = pictures.activations(Sequential([Input((60,)), Rows()]), x)
    assert (shown.shape, shown.slices.ravel().tolist()) == ((12, 5), [*range(10)])
