"""Initializers: variance, fans, seeds and refusals."""

import numpy as np
import pytest

from gpuconv import initializers, random
from gpuconv.layers import Conv2D, ConvTranspose2D, Input, Linear, Sequential

SHAPE = (64, 5, 3, 32)  # (K, R, S, C): fan_in 480, fan_out 960


def draw(choice, shape=SHAPE, dtype="float64", **options):
    return initializers.get(choice)(shape, dtype=dtype, **({"seed": 1, "substream": 2} | options))


@pytest.mark.parametrize(
    ("choice", "variance"),
    [
        ("he_normal", 2 / 480),
        ("he_uniform", 2 / 480),
        ({"name": "he_normal", "fan": "out"}, 2 / 960),
        ({"name": "he_uniform", "gain": 1.0}, 1 / 480),
        ("xavier_normal", 2 / (480 + 960)),
        ({"name": "xavier_uniform", "gain": 2.0}, 8 / (480 + 960)),
    ],
)
def test_the_variance_follows_the_formula(choice, variance):
    values = draw(choice)
    assert values.size == 30720
    standard_error = variance * np.sqrt(2 / values.size)  # for normal numbers; for uniform ones it is smaller
    assert abs(values.var() - variance) < 4 * standard_error
    assert abs(values.mean()) < 4 * np.sqrt(variance / values.size)
    if "uniform" in str(choice):
        assert np.abs(values).max() <= np.sqrt(3 * variance)


def test_fans_follow_from_the_shape_of_the_weights_and_a_vector_has_none():
    assert initializers.fans((7, 5)) == (5, 7)
    assert initializers.fans((8, 3, 2, 1)) == (6, 48)
    with pytest.raises(ValueError, match="rank 2"):
        draw("he_normal", (5,))


@pytest.mark.parametrize("groups", [1, 4, 16], ids=["plain", "grouped", "depthwise"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_a_convolution_preserves_the_variance_in_the_direction_of_its_fan(groups, distribution):
    """He initialization preserves the variance forward with fan_in, and backward with fan_out. Xavier initialization
    does both where the two fans are equal, as here. The gradient is measured away from the borders."""
    channels = filters = 16
    x = np.random.default_rng(0).normal(size=(8, 34, 34, channels))

    def measured(choice):
        conv = Conv2D(filters, 3, groups=groups, bias=False, weight_init=choice)
        conv.build(x.shape[1:], dtype="float64", seed=3)
        y = conv.forward(x)
        dx = conv.backward(np.random.default_rng(1).normal(size=y.shape))
        return y.var(), dx[:, 2:-2, 2:-2].var()

    he = {"name": f"he_{distribution}", "gain": 1.0}
    assert measured(he)[0] == pytest.approx(1, rel=0.12)
    assert measured(he | {"fan": "out"})[1] == pytest.approx(1, rel=0.12)
    assert measured(f"xavier_{distribution}") == pytest.approx((1, 1), rel=0.12)  # as many filters as channels


def test_the_fans_of_a_group_count_its_own_channels_and_filters():
    fan_in, fan_out = initializers.fans((32, 3, 3, 2), groups=4)  # 8 channels to 32 filters
    assert (fan_in, fan_out) == (9 * 2, 9 * 8)
    conv = Conv2D(32, 3, groups=4, weight_init={"name": "he_uniform", "fan": "out"})
    conv.build((4, 4, 8), seed=5)
    assert conv["weight"].var() == pytest.approx(2 / fan_out, rel=0.15)


def test_zeros_ones_and_constants_fill_the_array():
    assert not draw("zeros").any()
    assert (draw("ones") == 1).all()
    assert (draw({"name": "constant", "value": -0.25}, (3,)) == -0.25).all()


def test_dirac_initially_copies_the_input():
    weight = draw("dirac", (5, 3, 3, 2))
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2))
    conv = Conv2D(5, 3, padding=1, weight_init="dirac")
    conv.build((4, 4, 2), dtype="float64", seed=1)
    np.testing.assert_array_equal(conv.forward(x)[..., :2], x)
    assert np.count_nonzero(weight[:2]) == 2
    assert 0 < np.abs(weight[2:]).max() <= 1 / np.sqrt(18)


@pytest.mark.parametrize(("filters", "groups"), [(4, 2), (4, 4), (12, 2), (2, 2), (8, 4)])
def test_dirac_of_groups_copies_each_groups_channels(filters, groups):
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 4))
    conv = Conv2D(filters, 3, padding="same", groups=groups, bias=False, weight_init="dirac")
    conv.build((5, 5, 4), dtype="float64", seed=1)
    y, copied = conv.forward(x), min(filters, 4) // groups
    for group in range(groups):
        first, channel = group * filters // groups, group * 4 // groups
        np.testing.assert_array_equal(y[..., first : first + copied], x[..., channel : channel + copied])
        assert np.abs(conv["weight"][first + copied : first + filters // groups]).all()  # the others are random


def test_dirac_of_groups_equals_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.init.dirac_(torch.empty(12, 2, 3, 4), groups=3).numpy().transpose(0, 2, 3, 1)
    ours = initializers.dirac((12, 3, 4, 2), dtype="float32", seed=0, groups=3)
    copies = theirs.any((1, 2, 3))  # PyTorch fills the other filters with zeros
    np.testing.assert_array_equal(ours[copies], theirs[copies])
    assert copies.sum() == 6


def test_dirac_is_refused_for_other_shapes_than_filters():
    with pytest.raises(ValueError, match="filters"):
        Linear(3, weight_init="dirac").build((2,))


def test_the_same_seed_gives_the_same_bits_and_two_parameters_get_different_numbers():
    np.testing.assert_array_equal(draw("he_normal"), draw("he_normal"))
    assert (draw("he_normal") != draw("he_normal", seed=2)).any()
    net = Sequential([Input((4, 4, 2)), Conv2D(2, 3, padding=1), Conv2D(2, 3, padding=1)], seed=9)
    assert (net["conv1"]["weight"] != net["conv2"]["weight"]).any()
    std = np.sqrt(2 / 18)
    expected = random.normal((2, 3, 3, 2), std=std, seed=9, stream=random.INIT, substream=2)
    np.testing.assert_array_equal(net["conv2"]["weight"], expected)  # the third variable, after conv1's two


def test_float32_is_the_rounded_float64():
    np.testing.assert_array_equal(draw("he_normal", dtype="float32"), draw("he_normal").astype("float32"))


def test_layers_take_their_initializers_by_name():
    layer = Linear(3, weight_init={"name": "constant", "value": 2.0}, bias_init="ones")
    layer.build((2,))
    assert layer.forward(np.ones((1, 2), np.float32)).tolist() == [[5, 5, 5]]
    assert layer.config()["weight_init"] == {"name": "constant", "value": 2.0}


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"name": "constant", "value": np.nan}, ValueError, r"value must lie in \(-inf, inf\), received nan"),
        ({"name": "constant", "value": None}, TypeError, "value must be a number, received None"),
        ({"name": "constant", "value": [1, 2, 3]}, TypeError, "value must be a number, received"),
        ({"name": "he_uniform", "gain": "2"}, TypeError, "gain must be a number, received '2'"),
        ({"name": "xavier_normal", "gain": None}, TypeError, "gain must be a number, received None"),
        ({"name": "xavier_uniform", "gain": 1e200}, ValueError, "must lie in"),
        ("he_norml", ValueError, "did you mean 'he_normal'"),
        ({"name": "he_normal", "fun": "in"}, ValueError, "did you mean 'fan'"),
        ({"name": "he_normal", "fan": "both"}, ValueError, "unknown fan"),
        ({"fan": "in"}, TypeError, "chosen by name"),
        (None, TypeError, "chosen by name"),
    ],
)
def test_bad_choices_are_refused(choice, error, message):
    with pytest.raises(error, match=message):
        draw(choice)


def test_a_constant_that_the_dtype_cannot_hold_is_refused():
    for dtype in ("float16", "float32"):
        with pytest.raises(ValueError, match=rf"value holds 1e\+300, which is out of the range of {dtype}"):
            initializers.constant((2,), dtype=dtype, value=1e300)
    assert initializers.constant((2,), dtype="float64", value=1e300).tolist() == [1e300, 1e300]


def test_dirac_of_groups_is_the_identity_of_a_transposed_convolution():
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 8))
    layer = ConvTranspose2D(8, 1, groups=2, weight_init="dirac")
    layer.build((3, 3, 8), dtype="float64")
    np.testing.assert_array_equal(layer.forward(x), x)
    assert layer["bias"].shape == (8,)
