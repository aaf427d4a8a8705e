import numpy as np
import pytest

from gpuconv import initializers, random
from gpuconv.layers import Conv2D, Input, Linear, Sequential

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
def test_the_variance_is_the_formulas(choice, variance):
    values = draw(choice)
    assert values.size == 30720
    standard_error = variance * np.sqrt(2 / values.size)  # of a normal sample's variance; a uniform one's is smaller
    assert abs(values.var() - variance) < 4 * standard_error
    assert abs(values.mean()) < 4 * np.sqrt(variance / values.size)
    if "uniform" in str(choice):
        assert np.abs(values).max() <= np.sqrt(3 * variance)


def test_fans_of_linear_grouped_and_vector():
    assert initializers.fans((7, 5)) == (5, 7)
    assert initializers.fans((8, 3, 2, 1)) == (6, 48)
    with pytest.raises(ValueError, match="rank 2"):
        draw("he_normal", (5,))


def test_constants():
    assert not draw("zeros").any()
    assert (draw("ones") == 1).all()
    assert (draw({"name": "constant", "value": -0.25}, (3,)) == -0.25).all()


def test_dirac_begins_as_a_copy():
    weight = draw("dirac", (5, 3, 3, 2))
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2))
    conv = Conv2D(5, 3, padding=1, weight_init="dirac")
    conv.build((4, 4, 2), dtype="float64", seed=1)
    np.testing.assert_array_equal(conv.forward(x)[..., :2], x)
    assert np.count_nonzero(weight[:2]) == 2
    assert 0 < np.abs(weight[2:]).max() <= 1 / np.sqrt(18)


def test_the_same_seed_gives_the_same_bits_and_every_parameter_its_own():
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
