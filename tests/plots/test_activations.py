"""The picture of an image's activations: its panels in their order, and their text, slices and scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import plots
from gpuconv.dtypes import as_dtype
from gpuconv.plots import canvas
from tests.plots.figures import CLASSES, SCORES, panels, words

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")

RNG = np.random.default_rng(7)
VOLUMES = [
    ("conv1", RNG.normal(size=(9, 7, 12))),
    ("relu1", np.maximum(RNG.normal(size=(9, 7, 12)), 0)),
    ("pool1", RNG.normal(size=(4, 3, 5))),
    ("fc1", RNG.normal(size=7)),
]


def picture(**options):
    image = RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return plots.activations(image, VOLUMES, SCORES, CLASSES, **options)


def test_activations_has_a_column_per_layer_between_image_and_scores():
    figure = picture()
    across = sorted((axes.get_position().x0, axes.get_label()) for axes in figure.axes if axes.get_label() != "key")
    assert [name for _, name in across] == ["image", "conv1", "relu1", "pool1", "fc1", "scores"]


def test_activations_names_each_layer_and_the_size_of_its_volume():
    texts = words(picture(truth=3))
    for text in ["conv1", "9×7×12", "4×3×5", "1×1×7", "9×7×3", "this is: kind 3"]:
        assert text in texts


def test_activations_draws_slices_in_rows_and_says_what_it_leaves_out():
    figure = picture(rows=6)
    heights = {name: axes.get_position().height for name, axes in panels(figure).items()}
    assert heights["conv1"] == pytest.approx(heights["fc1"])  # both show 6 slices
    assert heights["pool1"] < heights["conv1"]  # shows all of its 5 slices
    assert "6 of 12" in words(figure)
    assert "5 of 5" not in words(figure)


def test_activations_refuses_mismatched_class_names_and_wrong_shapes():
    with pytest.raises(ValueError, match="7 scores but 2 class names"):
        plots.activations(np.zeros((4, 4)), VOLUMES, SCORES, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"an image is .* received shape \(2, 4, 4, 3\)"):
        plots.activations(np.zeros((2, 4, 4, 3)), VOLUMES, SCORES, CLASSES)
    with pytest.raises(ValueError, match=r"a layer's volume is .* received shape \(2, 4, 4, 5\)"):
        plots.activations(np.zeros((4, 4)), [("conv1", np.zeros((2, 4, 4, 5)))], SCORES, CLASSES)


def test_a_single_slice_is_as_large_as_the_image_and_scores_do_not_overlap():
    figure = plots.activations(np.zeros((8, 8), np.uint8), [("map", np.ones((8, 8, 1)))], SCORES, CLASSES)
    heights = {name: axes.get_position().height for name, axes in panels(figure).items()}
    assert heights["map"] == pytest.approx(heights["image"])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in panels(figure)["scores"].texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_slices_keep_their_place_and_sign():
    volume = np.zeros((2, 2, 2), np.float32)
    volume[0, 1, 0], volume[1, 0, 1] = 3, -3
    figure = plots.activations(np.zeros((2, 2), np.uint8), [("conv1", volume)], SCORES, CLASSES)
    pixels = panels(figure)["conv1"].images[0].get_array()
    tile = pixels.shape[1]
    slices = pixels[:tile], pixels[-tile:]

    def color(number, y, x):
        """The color in the middle of a slice's pixel (y, x), which fills a quarter of the slice's tile."""
        return slices[number][tile // 4 + tile // 2 * y, tile // 4 + tile // 2 * x]

    warm, cold, background = color(0, 0, 1), color(1, 1, 0), color(0, 0, 0)
    assert warm[0] > warm[2] > background[2]  # amber: more red than blue
    assert cold[2] > cold[0] > background[0]
    for index in np.ndindex(2, 2, 2):
        if index not in ((0, 0, 1), (1, 1, 0)):
            np.testing.assert_array_equal(color(*index), background, str(index))


def test_scores_are_the_best_five_sorted():
    bars = panels(picture())["scores"]
    assert [text.get_text() for text in bars.texts] == [
        "kind 1",
        "40.0 %",
        "kind 3",
        "25.0 %",
        "kind 5",
        "15.0 %",
        "kind 4",
        "10.0 %",
        "kind 6",
        "5.0 %",
    ]
    drawn = [patch.get_width() for patch in bars.patches if patch.get_width() < 1]  # each lies on a bar of width 1
    assert drawn == sorted(drawn, reverse=True)


def test_the_right_class_is_marked():
    colors = {text.get_text(): text.get_color() for text in panels(picture(truth=3))["scores"].texts}
    assert colors["25.0 %"] == canvas.GOOD
    assert canvas.GOOD not in (colors["40.0 %"], colors["15.0 %"])


@pytest.mark.parametrize("truth", [np.int64(3), np.array(3)], ids=repr)
def test_the_right_class_may_be_a_number_of_numpy(truth):
    assert words(picture(truth=truth)) == words(picture(truth=3))


def test_the_right_class_may_be_a_label_in_a_tensor_of_pytorch():
    torch = pytest.importorskip("torch")
    assert words(picture(truth=torch.tensor([3, 4])[0])) == words(picture(truth=3))


@pytest.mark.parametrize("truth", [np.array([3, 4]), np.array(3.0), np.array(True)], ids=repr)
def test_a_right_class_that_is_not_one_integer_is_refused(truth):
    with pytest.raises(TypeError, match="truth must be an integer"):
        picture(truth=truth)


def test_all_scores_are_shown_if_there_are_fewer_than_five():
    figure = plots.activations(np.zeros((4, 4), np.uint8), [], np.array([0.3, 0.7]), ["cat", "dog"])
    assert [text.get_text() for text in panels(figure)["scores"].texts] == ["dog", "70.0 %", "cat", "30.0 %"]


@pytest.mark.parametrize("channels", [2, 4])
def test_an_image_of_2_or_4_channels_is_drawn_as_the_mean_of_its_channels(channels):
    image = RNG.integers(0, 256, (9, 7, channels)).astype(np.uint8)
    drawn = panels(plots.activations(image, [], SCORES, CLASSES))["image"].images[0].get_array()
    np.testing.assert_allclose(drawn, np.repeat(image.mean(axis=2, keepdims=True) / 255, 3, axis=2), rtol=1e-12)


def test_an_image_may_have_any_float_dtype_or_be_boolean():
    image = np.linspace(0, 1, 12).reshape(2, 2, 3)
    for dtype in ("float16", "bfloat16", "float64", "bool"):
        given = image.astype(as_dtype(dtype) if dtype != "bool" else bool)
        drawn = panels(plots.activations(given, [], SCORES, CLASSES))["image"].images[0].get_array()
        np.testing.assert_allclose(drawn, given.astype(float))
        assert drawn.dtype.kind == "f", dtype  # matplotlib draws the integer 1 almost black


def test_nan_and_infinite_values_can_be_drawn():
    volume = np.array([[[np.nan], [np.inf]], [[-np.inf], [2.0]]])
    figure = plots.activations(np.zeros((4, 4)), [("conv1", volume)], SCORES, CLASSES)
    pixels = panels(figure)["conv1"].images[0].get_array()
    np.testing.assert_array_equal(pixels[5, 5], (1, 0, 1, 1))  # magenta
