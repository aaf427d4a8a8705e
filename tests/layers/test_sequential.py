"""Nets as lists of layers: how they are built, called and run backward."""

import inspect
from contextlib import contextmanager

import numpy as np
import pytest

from gpuconv import backends, losses, ops
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU, Residual, Sequential, Tanh, listen
from tests.layers.net_with_shortcut import images, net_of


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (lambda: [], TypeError, "at least one layer"),
        (lambda: [Input((3,)), "relu"], TypeError, "list of at least one layer, .*; item 1 is a builtins.str"),
        (lambda: [Linear(3, name="a"), ReLU(name="a")], ValueError, "two layers of one list are named 'a'"),
        (lambda: [layer := ReLU(), layer], ValueError, "occurs twice"),
        (lambda: [Input((4, 4, 1)), Input((4, 3, 1))], ValueError, "takes volumes of 4 x 3 x 1"),
    ],
    ids=["empty", "text as a layer", "equal names", "a layer twice", "inputs of two shapes"],
)
def test_lists_that_make_no_net_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        Sequential(layers())


def test_without_an_input_gradient_backward_ends_at_the_first_trained_layer():
    calls = []

    @contextmanager
    def record(layer, direction):
        calls.append((layer.path, direction))
        yield

    net = Sequential([Input((4, 4, 1)), Tanh(), Conv2D(2, 3), ReLU(), Flatten(), Linear(2)])
    y = net.forward(np.ones((2, 4, 4, 1), np.float32), True)
    with listen(record):
        assert net.backward(y, input_grad=False) is None
    assert calls == [(path, "backward") for path in ("fc1", "flatten1", "relu1", "conv1")]
    assert all(layer._saved is None for layer in net.walk())


def test_a_net_without_an_input_shape_is_built_by_build():
    net = Sequential([Linear(3)])
    assert net.output_shape is None
    assert net.build((4,), seed=5) == (3,)
    assert net.config()["seed"] == 5


def test_build_uses_the_arguments_of_the_constructor():
    net = Sequential([Linear(3)], seed=7, precision="tf32", device="emulated")
    net.build((4,))
    assert (net.seed, net.precision, net.device) == (7, "tf32", "emulated")
    direct = Sequential([Input((4,)), Linear(3)], seed=7, precision="tf32", device="emulated")
    np.testing.assert_array_equal(*(backends.to_numpy(one["fc1"]["weight"]) for one in (net, direct)))
    net = Sequential([Linear(3)], dtype="float64")
    net.build((4,))
    assert net["fc1"]["weight"].dtype == np.float64
    net.build((4,), precision="float16", seed=1)
    assert (net.seed, net["fc1"]["weight"].dtype) == (1, np.float16)
    with pytest.raises(ValueError, match="float23"):
        Sequential([Linear(3)], precision="float23")


@pytest.mark.parametrize("initializer", ["dirac", {"name": "constant", "value": "x"}], ids=["rank", "value"])
def test_an_initializer_that_raises_leaves_the_net_unchanged(initializer):
    net = Sequential([Linear(2, bias=False), Linear(3, weight_init=initializer)])
    with pytest.raises((ValueError, TypeError), match=r"'dirac' is for filters|value must be a number, received 'x'"):
        net.build((4,), precision="float64", device="emulated")
    assert not net.built
    assert (net.device, net.precision) == ("numpy", "float32")
    assert not any(layer.arrays for layer in net.walk())
    net.build((4,), initialize=False)
    with pytest.raises((ValueError, TypeError), match=r"'dirac' is for filters|value must be a number, received 'x'"):
        net.reset(precision="float64")
    assert net.precision == "float32"
    assert not any(layer.arrays for layer in net.walk())


def test_a_net_memorizes_twenty_random_images():
    net, loss = net_of(dtype="float64"), losses.get("softmax")
    x, labels = images(20, "float64"), np.arange(20) % 5
    net["dropout1"].p = 0.0
    velocities = [np.zeros_like(value) for value in net.params().values()]
    for _ in range(60):
        value, dscores = loss(net.forward(x, True), labels)
        net.zero_grad()
        net.backward(dscores, input_grad=False)
        ops.sgd_step(list(net.params().values()), list(net.grads().values()), velocities, lr=0.05, momentum=0.9)
    assert value < 0.01
    assert (net.forward(x, True).argmax(1) == labels).all()


def test_nan_passes_through_to_the_loss():
    net = net_of()
    x = images()
    x[1, 2, 2, 0] = np.nan
    value, dscores = losses.get("softmax")(net.forward(x), np.array([0, 1, 2]))
    assert np.isnan(value)
    assert np.isnan(dscores[1]).all()
    assert not np.isnan(dscores[[0, 2]]).any()


def test_a_net_can_be_called(net, x):
    np.testing.assert_array_equal(net(x), net.forward(x))
    y = net(x, training=True)
    assert net.backward(np.ones_like(y)).shape == x.shape


def test_named_parameters_gives_every_parameter(net):
    net["conv1"].frozen = True
    names = [name for name, _ in net.named_parameters()]
    assert names == [key for key in net.state_dict() if not key.startswith("dropout")]
    assert dict(net.named_parameters())["conv1.weight"] is net["conv1"]["weight"]


def test_sequential_takes_layers_one_by_one_as_in_pytorch():
    assert [layer.name for layer in Sequential(Conv2D(2, 3), ReLU(), Linear(3))] == ["conv1", "relu1", "fc1"]
    assert len(Sequential(Conv2D(2, 3))) == 1
    assert Sequential(Input((4,)), Linear(2), seed=3).output_shape == (2,)
    assert len(Sequential(layer for layer in (ReLU(), ReLU()))) == 2
    assert len(Sequential(layers=[ReLU(), ReLU()])) == 2
    assert [*inspect.signature(Sequential).parameters][:3] == ["layers", "more", "name"]
    part = Sequential([ReLU()])
    assert [type(layer) for layer in Sequential(part, Linear(3))] == [Sequential, Linear]
    for wrong, message in (
        (lambda: Sequential(Conv2D(2, 3), ReLU), r"received the class ReLU; call it: ReLU\(\)"),
        (lambda: Residual(Conv2D(2, 3), ReLU()), r"layers are given as a list, \[Conv2D\(.*\), ...\]"),
        (lambda: Sequential({"a": ReLU()}), "at least one layer, received {'a'"),
        (lambda: Sequential([]), "at least one layer"),
        (lambda: Sequential(3), "at least one layer, received 3"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
