"""Layers of one net in another, and slices of nets."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from gpuconv.training import Trainer
from tests import small_nets
from tests.layers.small_net import data, net_of, values
from tests.toy_run import same_arrays


@pytest.mark.parametrize(
    "options", [{}, {"device": "emulated"}, {"precision": "bfloat16"}], ids=["defaults", "emulated", "bfloat16"]
)
def test_a_new_head_leaves_the_pretrained_layers_as_they_are_in_both_nets(options):
    net = net_of(seed=3, **options)
    before = values(net)
    new = Sequential([*net[:-1], Linear(3)])
    assert same_arrays(values(net), before)
    without_head = {key: value for key, value in values(new).items() if not key.startswith("fc")}
    assert same_arrays(without_head, {key: value for key, value in before.items() if not key.startswith("fc")})
    assert (new.device, new.precision) == (net.device, net.precision)
    assert new.output_shape == (3,)
    assert np.abs(gc.to_numpy(new["fc1"]["weight"]).astype("f4")).max() > 0


def test_a_new_head_is_trained_with_the_normalization_of_the_pretrained_layers():
    net, test = small_nets.trained_on_digits()
    for new in (Sequential([*net[:-1], Linear(2)]), Sequential([net[:-1], Linear(2)])):
        assert new.normalization is not None
        images = test.images // 2
        Trainer(new).fit((images, np.arange(len(images)) % 2), epochs=1, progress=False)
        np.testing.assert_array_equal(new.normalization.mean, net.normalization.mean)
        assert new.classes == ["0", "1"]
    assert net[1:].normalization is None
    assert net[:2].normalization is net.normalization


def test_a_new_net_shares_layers_only_on_request():
    net = net_of()
    before = values(net)
    Trainer(Sequential([*net[:-1], Linear(3)]), lr=0.1).fit(data(), epochs=1, progress=False)
    Trainer(Sequential([net[:-1], Linear(3)]), lr=0.1).fit(data(), epochs=1, progress=False)
    Sequential([Input((6, 6, 2)), Residual(net[1:2], [Conv2D(3, 1)])])["residual1"].rows[0]["conv1"]["weight"][...] = 0
    assert same_arrays(values(net), before)
    shared = Sequential([*net[:-1], Linear(3)], share=True)
    assert shared["conv1"] is net["conv1"]
    assert same_arrays(values(net), before)
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
        assert same_arrays(values(net), before)
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


def test_a_slice_with_a_step_is_refused_and_changes_nothing():
    """A slice shares its layers, whose shapes depend on the layers before them."""
    net = Sequential([Input((8, 8, 3)), Conv2D(3, 3, padding=1), MaxPool2D(2), Conv2D(3, 3, padding=1), ReLU()])
    shapes = [(layer.path, layer.input_shape, layer.output_shape) for layer in net]
    for step in (slice(None, None, 2), slice(None, None, -1), slice(4, 0, -2)):
        with pytest.raises(ValueError, match=r"step must be 1, received .*Sequential\(\[\.\.\.\]\) copies"):
            net[step]
    assert [(layer.path, layer.input_shape, layer.output_shape) for layer in net] == shapes
    assert [layer.name for layer in net[1:4:1]] == ["conv1", "pool1", "conv2"]


def test_a_net_that_is_built_again_stays_where_it_was_moved():
    net = Sequential([Conv2D(2, 3)], device="emulated", precision="float16")
    net.build((5, 5, 1))
    net.to("numpy", precision="float64")
    net.build((6, 6, 1))
    assert (net.device, net.precision) == ("numpy", "float64")
    assert isinstance(net["conv1.weight"], np.ndarray)
    copied = Sequential([net[0], ReLU()], device="emulated")  # its first build is on the device that it was given
    assert copied.device == "emulated"
