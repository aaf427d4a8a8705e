"""Linear layers as convolutions and back, and nets that slide over larger images."""

import re

import numpy as np
import pytest

from gpuconv import convert, models
from gpuconv.layers import (
    AdaptiveAvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    Input,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from tests.tolerance import assert_within, sum_bound


def batch(*shape):
    return np.random.default_rng(8).normal(size=shape)


def close(actual, expected, length=300):
    assert_within(actual, expected, sum_bound("float64", length, np.maximum(1, np.abs(expected)) * 10))


def test_a_linear_layer_becomes_a_convolution_with_reshaped_weights():
    linear = Linear(4, bias_init="ones")
    linear.build((3 * 5 * 2,), dtype="float64", seed=2)
    conv = convert.linear_to_conv(linear, (3, 5, 2))
    x = batch(3, 3, 5, 2)
    assert conv.output_shape == (1, 1, 4)
    np.testing.assert_array_equal(conv["weight"], linear["weight"].reshape(4, 3, 5, 2))
    close(conv.infer(x)[:, 0, 0], linear.infer(x.reshape(3, 30)))
    narrow = convert.linear_to_conv(linear)
    assert narrow["weight"].shape == (4, 1, 1, 30)
    with pytest.raises(ValueError, match="reads 30 features"):
        convert.linear_to_conv(linear, (3, 5, 3))


@pytest.mark.parametrize(
    "conv",
    [
        Conv2D(3, (4, 5)),
        Conv2D(3, 3, padding=1, stride=2, bias_init="ones"),
        Conv2D(4, 2, groups=2, dilation=2, bias=False),
    ],
    ids=["kernel as large as the input", "strided", "grouped"],
)
def test_a_convolution_becomes_a_linear_layer_with_the_same_results(conv):
    conv.build((4, 5, 2), dtype="float64", seed=3)
    linear = convert.conv_to_linear(conv)
    x = batch(3, 4, 5, 2)
    close(linear.infer(x.reshape(3, 40)), conv.infer(x).reshape(3, -1))
    assert linear.bias == conv.bias


@pytest.mark.parametrize(
    ("algo", "expected", "groups"),
    [
        ("few_channels-256x64", "auto", 1),
        ("first-256x64", "auto", 1),
        ("depthwise", "auto", 2),
        ("simt-64x64", "simt-64x64", 1),
    ],
    ids=["few channels", "former name of few channels", "depthwise", "simt"],
)
def test_a_linear_layer_has_no_algorithm_that_only_convolves(algo, expected, groups):
    """Products of two matrices refuse the names of these algorithms."""
    conv = Conv2D(4, 3, algo=algo, groups=groups)
    conv.build((4, 5, 2))
    linear = convert.conv_to_linear(conv)
    assert linear.algo == expected
    linear.infer(batch(1, 4, 5, 2).reshape(1, 40).astype(np.float32))


def test_a_round_trip_gives_the_same_bits():
    linear = Linear(4)
    linear.build((12,), seed=2)
    back = convert.conv_to_linear(convert.linear_to_conv(linear, (2, 3, 2)))
    np.testing.assert_array_equal(back["weight"], linear["weight"])


def sliding_net():
    """A net without padding. Its windows of 14 x 12 slide by 4 pixels, as two of its layers have stride 2."""
    return Sequential(
        [
            Input((14, 12, 3)),
            Conv2D(5, 3),
            BatchNorm(),
            ReLU(),
            MaxPool2D(2),
            Sequential([Conv2D(4, (3, 2)), ReLU()]),
            MaxPool2D(2),
            Flatten(),
            Dropout(0.4),
            Linear(7),
            ReLU(),
            BatchNorm(),
            Linear(5),
        ],
        seed=4,
        dtype="float64",
    )


def test_a_sliding_net_gives_the_nets_scores_for_each_crop():
    net = sliding_net()
    sliding = net.as_convolutional()
    image = batch(2, 14 + 3 * 4 + 1, 12 + 2 * 4, 3)
    scores = sliding.predict(image)
    assert scores.shape == (2, 4, 3, 5)
    for row in range(4):
        for column in range(3):
            crop = image[:, 4 * row : 4 * row + 14, 4 * column : 4 * column + 12]
            close(scores[:, row, column], net.infer(np.ascontiguousarray(crop)))
    assert len({*scores[0].round(9).ravel().tolist()}) > 50  # the map is not constant


def test_a_sliding_net_gives_the_nets_scores_for_an_image_of_its_own_size():
    net = models.build("digits-net", dtype="float64", seed=2)
    x = batch(3, 8, 8, 1)
    close(net.as_convolutional().infer(x)[:, 0, 0], net.infer(x))


def test_a_global_pool_becomes_a_sliding_pool():
    net = Sequential([Input((4, 4, 2)), Conv2D(3, 3), GlobalAvgPool2D(), Flatten(), Linear(2)], dtype="float64")
    image = batch(1, 6, 5, 2)
    scores = net.as_convolutional().infer(image)
    assert scores.shape == (1, 3, 2, 2)
    close(scores[:, 2, 1], net.infer(np.ascontiguousarray(image[:, 2:6, 1:5])))


def test_the_original_is_not_changed_and_softmax_works_on_maps():
    net = sliding_net()
    sliding = net.as_convolutional()
    sliding["fc1"]["weight"][...] = 0
    assert net["fc1"]["weight"].any()
    scores = sliding.predict(batch(1, 18, 16, 3), softmax=True)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-12)


def test_smaller_images_are_refused():
    with pytest.raises(ValueError, match="or larger maps, received 13 x 12 x 3"):
        sliding_net().as_convolutional().infer(batch(1, 13, 12, 3))


class DoubledLinear(Linear):
    def forward(self, x, training=False, *, out=None):
        return 2 * super().forward(x, training)


def test_a_users_layer_is_not_replaced_by_ours_that_slides():
    net = Sequential([Input((4, 4, 3)), Flatten(), DoubledLinear(2)])
    with pytest.raises(ValueError, match="fc1 is a DoubledLinear, which must define as_sliding itself to slide"):
        net.as_convolutional()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Input((4, 4, 2)), Flatten(), BatchNorm(), Linear(2)], r"norm1 normalizes each position"),
        ([Input((1, 1, 2)), Residual([Flatten()], [Flatten()]), Linear(2)], "residual1.flatten1, Flatten"),
        ([Input((4, 4, 2)), Branches([[AdaptiveAvgPool2D(1)], [MaxPool2D(4)]])], "branch1.pool1, AdaptiveAvgPool2D"),
        ([Input((4, 4, 2)), GroupNorm(2)], "norm1, GroupNorm.* reads the whole map"),
    ],
)
def test_nets_that_cannot_slide_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Sequential(layers).as_convolutional()
    with pytest.raises(ValueError, match="must begin with Input"):
        convert.as_convolutional(Sequential([Linear(3)]))


def test_converted_nets_compute_in_the_same_precision():
    net = models.build("seed-net", precision="tf32")
    assert convert.as_convolutional(net).precision == "tf32"
    conv = convert.linear_to_conv(net["fc1"])
    assert conv.precision == convert.conv_to_linear(conv).precision == "tf32"


def test_a_layer_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="build the Linear first"):
        convert.linear_to_conv(Linear(3))
    with pytest.raises(ValueError, match="build the Conv2D first"):
        convert.conv_to_linear(Conv2D(3, 3))


def test_layers_of_another_kind_and_volumes_of_another_rank_are_refused():
    linear = Linear(2)
    linear.build((12,))
    for call, message in (
        (lambda: convert.linear_to_conv(Conv2D(3, 3)), "the layer must be a Linear, received Conv2D"),
        (lambda: convert.conv_to_linear(linear), "the layer must be a Conv2D, received Linear"),
        (lambda: convert.as_convolutional(linear), r"a net must be a gpuconv\.Sequential, received Linear"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    for volume in ((2, 6), 12, "abc"):
        with pytest.raises(ValueError, match=rf"volume must be \(H, W, C\), received {re.escape(str(volume))}"):
            convert.linear_to_conv(linear, volume)


def test_windows_may_extend_beyond_the_image_where_pools_drop_a_remainder():
    pool = MaxPool2D(2)  # does not read the last row and column
    net = Sequential([Input((7, 7, 1)), Conv2D(2, 3), pool, Flatten(), Linear(3)], dtype="float64")
    x = batch(1, 8, 8, 1)
    scores = convert.as_convolutional(net).forward(x)
    assert scores.shape == (1, 2, 2, 3)
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=np.nan)
    for p, q in np.ndindex(2, 2):
        close(scores[0, p, q], net.forward(padded[:, 2 * p : 2 * p + 7, 2 * q : 2 * q + 7])[0])
