"""What errors of nets name: the layer, the shapes, and what to do."""

import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import (
    AdaptiveAvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GroupNorm,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Scale,
    Sequential,
    Upsample,
)
from gpuconv.summary import summary
from gpuconv.training import Trainer
from tests.layers.net_with_shortcut import net_of


def test_a_shape_error_names_the_layer_deep_inside():
    row = [Input((8, 8, 3)), Conv2D(4, 3), Residual([Conv2D(4, 3, padding=1), MaxPool2D(9)])]
    with pytest.raises(ValueError, match=r"^residual1\.pool1: a window spans 9"):
        Sequential(row)


def test_a_runtime_error_has_a_note_that_names_the_layer():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3)])
    with pytest.raises(TypeError, match="float32") as caught:
        net.forward(np.ones((1, 4, 4, 1), np.float64))
    assert "conv1.forward" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [AttributeError, IndexError, KeyError, ZeroDivisionError])
def test_any_error_of_a_users_layer_has_a_note_that_names_the_layer(error):
    class Broken(Layer):
        def plan(self, input_shape):
            return input_shape

        def forward(self, x, training=False):
            raise error("broken")

    net = Sequential([Input((4, 4, 1)), Broken()])
    with pytest.raises(error, match="broken") as caught:
        net.forward(np.ones((1, 4, 4, 1), np.float32))
    assert "layer1.forward" in caught.value.__notes__[0]


def test_forward_without_arrays_is_refused():
    conv = Conv2D(2, 3)
    conv.build((4, 4, 1), initialize=False)
    with pytest.raises(RuntimeError, match="initialize=False"):
        conv.forward(np.ones((1, 4, 4, 1), np.float32))


@pytest.mark.parametrize(
    "layer",
    [
        Conv2D(2, 3),
        ConvTranspose2D(2, 2),
        BatchNorm(),
        GroupNorm(2),
        MaxPool2D(2),
        AdaptiveAvgPool2D(2),
        Upsample(2),
        Branches([[], [ReLU()]]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_calling_a_layer_that_must_be_built_first_says_so(layer):
    with pytest.raises(RuntimeError, match="build the "):
        layer(np.ones((2, 4, 4, 2), np.float32))


def test_an_error_of_a_users_hook_or_layer_is_not_taken_for_a_missing_build():
    class Faulty(Layer):
        def forward(self, x, training=False):
            return self.no_such_attribute

    x = np.ones((2, 4, 4, 2), np.float32)
    for hook, error in (
        (lambda layer, x, y: {}["no_such_name"], KeyError),
        (lambda layer, x, y: layer.no_such_name, AttributeError),
    ):
        relu = ReLU()
        relu.register_forward_hook(hook)
        with pytest.raises(error, match="no_such_name"):
            Sequential([relu])(x)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        Sequential([Faulty()])(x)


def test_an_array_in_pytorchs_layout_gets_a_hint(net, x):
    with pytest.raises(ValueError, match=r"received 2 x 6 x 6; that is PyTorch's layout.*x.transpose\(0, 2, 3, 1\)"):
        net(x.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"received 6 x 2; the first axis counts the images: x\[None\]"):
        net(x[0])


def test_an_object_that_is_not_a_net_or_has_no_shapes_is_named():
    unbuilt = Sequential([Conv2D(3, 3), Flatten(), Linear(2)])
    data = np.zeros((2, 4, 4, 3), np.float32), [0, 1]
    for function in (Trainer, lambda net: gc.evaluate(net, data), summary):
        with pytest.raises(RuntimeError, match=r"no shapes yet: begin it with Input\(...\) or call build"):
            function(unbuilt)
        for wrong, message in (("digits-net", r"gpuconv.models.build\('digits-net'\)"), (None, "received NoneType")):
            with pytest.raises(TypeError, match=message):
                function(wrong)


def test_a_wrong_image_size_is_refused_at_the_input():
    with pytest.raises(ValueError, match=r"takes volumes of 6 x 5 x 2 .*received 6 x 6 x 2"):
        net_of().forward(np.ones((1, 6, 6, 2), np.float32))


def test_an_input_of_single_numbers_refuses_vectors_even_if_larger_is_true():
    net = Sequential([Input((), larger=True)])
    assert net.forward(np.ones(2, np.float32)).shape == (2,)
    with pytest.raises(ValueError, match="takes single numbers, received 3"):
        net.forward(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="takes volumes of 4, received 3"):
        Sequential([Input((4,), larger=True)]).forward(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"takes volumes of 4 x 4 x 1 .* or larger maps, received 3 x 4 x 1"):
        Sequential([Input((4, 4, 1), larger=True)]).forward(np.ones((2, 3, 4, 1), np.float32))


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((4, 4, 1), (2,), "volumes of 4 x 4 x 1 (height x width x depth), received single numbers"),
        ((4,), (2, 5), "volumes of 4, received 5"),
        ((), (2, 3), "single numbers, received 3"),
    ],
)
def test_the_error_for_a_wrong_shape_names_both_shapes_of_any_rank(shape, given, message):
    net = Sequential([Input(shape), Scale(2.0)])
    with pytest.raises(ValueError, match=f"^the net takes {re.escape(message)}"):
        net(np.ones(given, np.float32))
