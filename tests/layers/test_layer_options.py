"""Options of layers and nets that are refused."""

import re
from functools import partial

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    GlobalAvgPool2D,
    GroupNorm,
    Input,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Scale,
    Sequential,
    Upsample,
)


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: Conv2D(4, 0), None, ValueError, "kernel_size must be at least 1"),
        (lambda: Conv2D(4, 3, stride=0), None, ValueError, "stride must be at least 1"),
        (lambda: Conv2D(4, 3, dilation=0), None, ValueError, "dilation must be at least 1"),
        (lambda: Conv2D(0, 3), None, ValueError, "out_channels must be at least 1"),
        (lambda: Conv2D(4, 3, groups=0), None, ValueError, "groups must be at least 1"),
        (lambda: Conv2D(4, 3.5), None, TypeError, "kernel_size must be an integer"),
        (lambda: Conv2D(4, 3, padding=-1), None, ValueError, "padding must be at least 0"),
        (lambda: Conv2D(4, 3, groups=3), (5, 5, 4), ValueError, "groups must divide"),
        (lambda: Conv2D(4, 7), (5, 5, 4), ValueError, "spans 7 but the padded input only 5"),
        (lambda: Conv2D(4, 2, stride=2, fit="exact"), (5, 5, 4), ValueError, "sizes that would fit: 4 or 6"),
        (lambda: Conv2D(4, 2, fit="flor"), None, ValueError, "did you mean 'floor'"),
        (lambda: Conv2D(4, 2, weight_init="he_norml"), None, ValueError, "did you mean 'he_normal'"),
        (lambda: Conv2D(4, 2, bias_init=0.0), None, TypeError, "the initializer is chosen by name, received float"),
        (lambda: ConvTranspose2D(4, 2, bias_init="zeroes"), None, ValueError, "did you mean 'zeros'"),
        (lambda: Linear(4, weight_init="he_norml"), None, ValueError, "did you mean 'he_normal'"),
        (lambda: MaxPool2D("2"), None, TypeError, "kernel_size must be an integer, received '2'"),
        (lambda: MaxPool2D(2, stride=0), None, ValueError, "stride must be at least 1, received 0"),
        (lambda: AvgPool2D(2, padding="all"), None, ValueError, "unknown padding 'all'"),
        (lambda: AvgPool2D(2, fit="flor"), None, ValueError, "did you mean 'floor'"),
        (lambda: ReLU(name=3), None, TypeError, "a layer's name must be text, received 3"),
        (lambda: ReLU(), 3, TypeError, r"input_shape must be a shape without N, such as \(32, 32, 3\), received 3"),
        (lambda: ReLU(), "ab", TypeError, r"input_shape must be a shape without N, .*, received 'ab'"),
        (lambda: GroupNorm(1), (), ValueError, r"GroupNorm: the input must have the axes .*, received \(N,\)"),
        (lambda: BatchNorm(), (), ValueError, r"BatchNorm: the input must have the axes .*, received \(N,\)"),
        (lambda: LayerNorm(), (), ValueError, r"LayerNorm: the input must have the axes .*, received \(N,\)"),
        (lambda: Conv2D(4, 3), (5,), ValueError, "axes"),
        (lambda: Linear(4), (5, 5, 4), ValueError, "put Flatten"),
        (lambda: Linear(-4), None, ValueError, "out_features must be at least 1"),
        (lambda: MaxPool2D(3), (2, 5, 1), ValueError, "spans 3"),
        (lambda: MaxPool2D(2, padding=2), (5, 5, 1), ValueError, "padding must be smaller"),
        (lambda: GlobalAvgPool2D(), (5,), ValueError, "axes"),
        (lambda: Dropout(1.0), None, ValueError, "p must lie in"),
        (lambda: BatchNorm(momentum=1.5), None, ValueError, "momentum must lie in"),
        (lambda: Scale("x"), None, TypeError, "factor must be a number"),
        (lambda: LeakyReLU(negative_slope=-1), None, ValueError, "negative_slope must lie in"),
        (lambda: ELU(alpha=-1), None, ValueError, "alpha must lie in"),
        (lambda: GELU(approximate="tan"), None, ValueError, "did you mean 'tanh'"),
        (lambda: Input((0, 3, 1)), None, ValueError, "at least 1"),
        (lambda: ReLU(), (3, 0, 2), ValueError, "at least 1"),
        (lambda: ReLU(name="a.b"), None, ValueError, "dot"),
        (lambda: ReLU(frozen="weight"), (3,), ValueError, r"unknown variable 'weight' \(known: none\)"),
        (lambda: Residual([Conv2D(4, 3)]), (5, 5, 2), ValueError, "cannot be added"),
        (lambda: Residual([]), None, TypeError, "at least one layer"),
    ],
)
def test_bad_options_are_refused_with_a_clear_error(make, shape, error, message):
    with pytest.raises(error, match=message):
        make().build(shape)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seed": -1}, ValueError),
        ({"seed": "one"}, TypeError),
        ({"device": "nowhere"}, ValueError),
        ({"dtype": "int8"}, TypeError),
        ({"precision": "int8"}, ValueError),
        ({"dtype": "float32", "precision": "float32"}, ValueError),
    ],
)
@pytest.mark.parametrize("make", [lambda: Conv2D(2, 3), lambda: Sequential([Conv2D(2, 3)])], ids=["layer", "net"])
def test_a_wrong_option_of_build_or_reset_changes_nothing(make, options, error):
    layer = make()
    with pytest.raises(error):
        layer.build((4, 4, 1), **options)
    assert not layer.built
    assert not layer.variables
    layer.build((4, 4, 1))
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    for call in (partial(layer.build, (4, 4, 1)), layer.reset):
        with pytest.raises(error):
            call(**options)
        assert layer.state_dict().keys() == before.keys()
        assert all((layer[name] == array).all() for name, array in before.items())


def test_a_kept_value_out_of_the_range_of_the_new_dtype_is_refused_and_changes_nothing():
    conv = Conv2D(2, 3)
    conv.build((4, 4, 1))
    conv["weight"][...] = 1e30
    net = Sequential([conv, ReLU()], share=True)
    with pytest.raises(ValueError, match="out of the range of float16"):
        net.build((4, 4, 1), dtype="float16")
    assert not net.built
    assert not net["relu1"].built
    assert conv["weight"].dtype == np.float32


def test_a_layer_without_a_bias_needs_no_initializer_for_it():
    for layer in (Conv2D(2, 3, bias=False, bias_init=None), ConvTranspose2D(2, 3, bias=False, bias_init=None)):
        layer.build((4, 4, 1))
        assert [*layer.variables] == ["weight"]


def test_flags_must_be_true_or_false():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3)])
    state, images = net.state_dict(), np.zeros((1, 4, 4, 1), np.float32)
    for name, call in (
        ("share", lambda wrong: Sequential([ReLU()], share=wrong)),
        ("initialize", lambda wrong: Sequential([ReLU()], initialize=wrong)),
        ("initialize", lambda wrong: Conv2D(2, 3).build((4, 4, 1), initialize=wrong)),
        ("strict", lambda wrong: net.load_state_dict(state, strict=wrong)),
        ("normalize", lambda wrong: net.activations(images, normalize=wrong)),
        ("normalize", lambda wrong: net.predict(images, normalize=wrong)),
        ("softmax", lambda wrong: net.predict(images, softmax=wrong)),
        ("bias", lambda wrong: Conv2D(2, 3, bias=wrong)),
        ("count_include_pad", lambda wrong: layers.AvgPool2D(2, count_include_pad=wrong)),
        ("larger", lambda wrong: Input((4, 4, 1), larger=wrong)),
    ):
        for wrong in ("no", 3, []):
            message = f"{name} must be True or False, received {re.escape(repr(wrong))}"
            with pytest.raises(TypeError, match=message):
                call(wrong)


def test_layers_of_images_refuse_impossible_sizes_and_groups():
    for make, words in (
        (
            lambda: ConvTranspose2D(4, 3, stride=2, output_padding=2),
            "output_padding must be less than the stride (2, 2)",
        ),
        (lambda: ConvTranspose2D(4, 3, groups=3), "groups must divide out_channels, received 3 and 4"),
        (lambda: ConvTranspose2D(4, 3, groups=2).build((3, 3, 3)), "groups must divide the channels and the filters"),
        (lambda: ConvTranspose2D(4, 1, padding=2).build((3, 3, 3)), "leaves no output: maps of -1 x -1"),
        (lambda: ConvTranspose2D(4, 0), "kernel_size"),
        (lambda: GroupNorm(0), "groups"),
        (lambda: GroupNorm(4).build((2, 2, 6)), "groups must divide the 6 channels, received 4"),
        (lambda: LayerNorm(eps=-1.0), "eps"),
        (lambda: Upsample(0), "scale must be at least 1"),
        (lambda: Upsample(2, "bilinea"), "did you mean 'bilinear'"),
        (lambda: Upsample(2).build((4,)), "the input must have the axes (N, H, W, C)"),
        (lambda: AdaptiveAvgPool2D(0), "output_size"),
        (
            lambda: AdaptiveAvgPool2D(3).build((8, 6, 1)),
            "3 windows over 8 pixels differ in size or distance; an input of 6 or 9",
        ),
        (
            lambda: AdaptiveAvgPool2D((4, 1)).build((2, 2, 1)),
            "4 windows over 2 pixels differ in size or distance; an input of 4",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            make()


@pytest.mark.parametrize("flag", ["no", 2, None])
def test_training_and_input_grad_must_be_true_or_false(flag):
    net = Sequential([Input((4,)), Linear(3)])
    x, dy = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    for run in (net, net.forward, net.layers[1]):
        with pytest.raises(TypeError, match=f"training must be True or False, received {flag!r}"):
            run(x, training=flag)
    net(x, training=True)
    with pytest.raises(TypeError, match=f"input_grad must be True or False, received {flag!r}"):
        net.backward(dy, input_grad=flag)
    net.backward(dy)  # what forward kept is still there


def test_the_shape_of_an_input_is_a_tuple():
    for wrong in (8, "8x8", None):
        with pytest.raises(TypeError, match=r"as \(32, 32, 3\), received"):
            Input(wrong)
