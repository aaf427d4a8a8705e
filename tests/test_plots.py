"""Pictures have the right panels, in the right order, with the right text; pixels are not compared."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.plots import canvas

plots = pytest.importorskip("gpuconv.plots")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")

RNG = np.random.default_rng(7)
CLASSES = [f"kind {number}" for number in range(7)]
SCORES = np.array([0.02, 0.4, 0.03, 0.25, 0.1, 0.15, 0.05])
VOLUMES = [
    ("conv1", RNG.normal(size=(9, 7, 12))),
    ("relu1", np.maximum(RNG.normal(size=(9, 7, 12)), 0)),
    ("pool1", RNG.normal(size=(4, 3, 5))),
    ("fc1", RNG.normal(size=7)),
]


def panels(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def words(figure):
    return [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]


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
    drawn = [patch.get_width() for patch in bars.patches if patch.get_width() < 1]
    assert drawn == sorted(drawn, reverse=True)


def test_the_right_class_is_marked():
    colors = {text.get_text(): text.get_color() for text in panels(picture(truth=3))["scores"].texts}
    assert colors["25.0 %"] == canvas.GOOD
    assert canvas.GOOD not in (colors["40.0 %"], colors["15.0 %"])


def test_all_scores_are_shown_if_there_are_fewer_than_five():
    figure = plots.activations(np.zeros((4, 4), np.uint8), [], np.array([0.3, 0.7]), ["cat", "dog"])
    assert [text.get_text() for text in panels(figure)["scores"].texts] == ["dog", "70.0 %", "cat", "30.0 %"]


def test_activations_refuses_mismatched_class_names_and_wrong_shapes():
    with pytest.raises(ValueError, match="7 scores but 2 class names"):
        plots.activations(np.zeros((4, 4)), VOLUMES, SCORES, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"an image is .* received shape \(2, 4, 4, 3\)"):
        plots.activations(np.zeros((2, 4, 4, 3)), VOLUMES, SCORES, CLASSES)
    with pytest.raises(ValueError, match=r"a layer's volume is .* received shape \(2, 4, 4, 5\)"):
        plots.activations(np.zeros((4, 4)), [("conv1", np.zeros((2, 4, 4, 5)))], SCORES, CLASSES)


def test_errors_are_drawn_relative_to_their_bound():
    rows = {"conv2d of conv1": {"A": 0.1, "B": 1e-3}, "relu": {"A": 0.0}, "pool": {"B": 2.5e6}, "add": {"A": np.inf}}
    figure = plots.shares(rows, title="who is wrong")
    for text in ["who is wrong", *rows, "the bound", "B: 2.5e+06 times its bound", "A: inf times its bound"]:
        assert text in words(figure)
    (axes,) = figure.axes
    bound, *dots = axes.lines
    assert set(bound.get_xdata()) == {1}
    low, high = axes.get_xlim()
    drawn = [(dot.get_ydata()[0], dot.get_xdata()[0], dot.get_color()) for dot in dots]
    cold, good, warm = canvas.COLD, canvas.GOOD, canvas.WARM
    assert drawn == [(0, 0.1, cold), (0, 1e-3, good), (1, low, cold), (2, 2.5e6, warm), (3, high, warm)]
    assert high > 2.5e6
    with pytest.raises(ValueError, match="at least one row"):
        plots.shares({})


def test_shares_and_differences_refuse_rows_of_other_types():
    for draw in (plots.shares, plots.differences):
        for rows, kind in (([("relu", {"A": 0.1})], "list"), (None, "NoneType"), ({"relu": 0.1}, "float")):
            with pytest.raises(TypeError, match=f"rows must be a dictionary of dictionaries, received {kind} in place"):
                draw(rows)


def test_differences_of_two_runs_are_drawn_by_step_and_tensor():
    rows = {("outputs", "conv1"): {1: 0.0, 3: 1e-9}, ("gradients", "conv1.weight"): {1: 0.0, 2: 0.5, 3: np.inf}}
    figure = plots.differences(rows, first=(2, ("gradients", "conv1.weight")))
    for text in ["outputs", "gradients", "conv1", "conv1.weight", "what rounding explains"]:
        assert text in words(figure)
    axes = figure.axes[0]
    pixels = axes.images[0].get_array()
    assert pixels[..., 3].tolist() == [[1, 0, 1], [1, 1, 1]]  # step 2 has no output
    same, far, near, beyond = pixels[0, 0], pixels[0, 2], pixels[1, 1], pixels[1, 2]
    assert near[2] > far[2] > same[2]  # blue, lighter near the bound
    assert beyond[0] > beyond[2]
    (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (1, 1)
    with pytest.raises(ValueError, match="at least one step"):
        plots.differences({})
    for first in ((4, ("outputs", "conv1")), (1, ("outputs", "conv2"))):
        with pytest.raises(ValueError, match="first must be a step of a tensor among the rows"):
            plots.differences(rows, first=first)


def test_a_difference_of_nan_is_drawn_empty():
    with warnings.catch_warnings(action="error"):
        pixels = plots.differences({("loss", "loss"): {1: 0.0, 2: np.nan}}).axes[0].images[0].get_array()
    assert pixels[0, :, 3].tolist() == [1, 0]


def test_the_steps_of_a_long_run_share_columns_that_show_the_largest_difference():
    shares = dict.fromkeys(range(1, 2001), 0.0) | {1500: 4.0}
    pixels = plots.differences({("loss", "loss"): shares}).axes[0].images[0].get_array()
    assert pixels.shape[:2] == (1, 600)
    assert [at for at, color in enumerate(pixels[0]) if color[0] > color[2]] == [1499 * 600 // 2000]


@pytest.mark.parametrize("channels", [2, 4])
def test_an_image_without_1_or_3_channels_is_drawn_as_their_mean(channels):
    image = RNG.integers(0, 256, (9, 7, channels)).astype(np.uint8)
    drawn = panels(plots.activations(image, [], SCORES, CLASSES))["image"].images[0].get_array()
    np.testing.assert_allclose(drawn, np.repeat(image.mean(axis=2, keepdims=True) / 255, 3, axis=2), rtol=1e-12)


def test_text_is_drawn_literally(tmp_path):
    name = "cost $x_$ low"
    pictures = [
        plots.activations(np.zeros((4, 4)), [], np.array([0.3, 0.7]), ["cat", name], truth=1, title=f"at {name}"),
        plots.curves(HISTORY, title=name),
        plots.filters(np.zeros((2, 3, 3, 3)), title=name),
        plots.shares({name: {"A": 0.1}}),
        plots.differences({("loss", name): {1: 0.1}}),
    ]
    for number, figure in enumerate(pictures):
        plots.save(figure, tmp_path / f"{number}.png")
        assert any(name in text for text in words(figure))


def test_letters_missing_from_the_font_are_question_marks(tmp_path):
    name = "a\N{CJK UNIFIED IDEOGRAPH-732B}b\n\udc80é"
    figure = plots.activations(np.zeros((4, 4)), [], np.array([1.0]), [name], truth=0, title=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, tmp_path / "a.png")
    assert "a?b??é" in words(figure)


@pytest.mark.parametrize("letter", ["W", "i"])
def test_long_text_is_cut_with_an_ellipsis(letter):
    long = 200 * letter
    figure = plots.activations(np.zeros((4, 4)), [], np.array([1.0]), [long], truth=0, title=long)
    name, percentage = panels(figure)["scores"].texts
    assert name.get_text().endswith("…")
    assert name.get_window_extent().x1 < percentage.get_window_extent().x0
    (title,) = (text for text in figure.texts if text.get_weight() == "bold")
    (truth,) = (text for text in figure.texts if text.get_text().startswith("this is"))
    for text in (title, truth):
        assert text.get_text().endswith("…")
        assert text.get_window_extent().x0 > 0
        assert text.get_window_extent().x1 < figure.bbox.width


def test_nan_and_infinite_values_can_be_drawn():
    volume = np.array([[[np.nan], [np.inf]], [[-np.inf], [2.0]]])
    figure = plots.activations(np.zeros((4, 4)), [("conv1", volume)], SCORES, CLASSES)
    pixels = panels(figure)["conv1"].images[0].get_array()
    np.testing.assert_array_equal(pixels[5, 5], (1, 0, 1, 1))  # magenta


HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "test_loss": 1.5, "train_accuracy": 0.5, "test_accuracy": 0.625},
    {"epoch": 2, "train_loss": 1.0, "test_loss": 1.25, "train_accuracy": 0.75, "test_accuracy": 0.875},
]


def test_curves_draws_loss_and_accuracy_of_training_and_test():
    loss, accuracy = plots.curves(HISTORY).axes
    assert (loss.get_title("left"), accuracy.get_title("left")) == ("loss", "accuracy")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn == {"train": [[1, 2.0], [2, 1.0]], "test": [[1, 1.5], [2, 1.25]]}
    drawn = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert drawn == {"train": [[1, 50.0], [2, 75.0]], "test": [[1, 62.5], [2, 87.5]]}
    assert {text.get_text() for text in accuracy.texts} == {"train 75.0 %", "test 87.5 %"}


def test_curves_draws_a_single_epoch_without_test_results():
    loss, accuracy = plots.curves([{"epoch": 1, "train_loss": 2.0, "test_loss": None}]).axes
    assert [line.get_label() for line in loss.lines] == ["train"]
    assert not accuracy.lines


def test_curves_labels_do_not_touch():
    rows = [{"epoch": n, "train_loss": 3 - n, "test_loss": 3.001 - n} for n in (1, 2)]
    heights = [text.get_position()[1] for text in plots.curves(rows).axes[0].texts]
    assert abs(heights[0] - heights[1]) > 0.07


def test_curves_labels_end_within_the_figure():
    row = {f"{part}_{what}": 1.0 for part in ("train", "validation", "test") for what in ("loss", "accuracy")}
    figure = plots.curves([row | {"epoch": 1}, row | {"epoch": 2, "validation_loss": 123.456}])
    plots.pixels(figure)
    loss, accuracy = figure.axes
    assert [text.get_text() for text in accuracy.texts] == ["test 100.0 %", "train 100.0 %", "validation 100.0 %"]
    tick_labels = accuracy.get_tightbbox().x0
    assert all(text.get_window_extent().x1 < tick_labels for text in loss.texts)
    assert all(text.get_window_extent().x1 < figure.bbox.width for text in accuracy.texts)


def test_curves_of_an_empty_history_are_refused():
    with pytest.raises(ValueError, match="empty history"):
        plots.curves([])


@pytest.mark.parametrize(("shape", "tiles"), [((12, 5, 3, 3), 12), ((7, 3, 3, 1), 7), ((4, 3, 3, 2), 8)])
def test_filters_shows_every_filter(shape, tiles):
    figure = plots.filters(RNG.normal(size=shape), title="conv1")
    sheet = figure.axes[0].images[0].get_array()
    covered = sheet[..., 3] > 0
    side = 110  # pixels of a tile's longer side
    assert covered.sum() == tiles * side * round(side * min(1, shape[2] / shape[1]))


def test_filters_refuses_layers_nets_and_none():
    layer = gc.layers.Conv2D(2, 3)
    for wrong in (layer, gc.Sequential([layer]), None):
        with pytest.raises(TypeError, match=r"net\['conv1.weight'\], received"):
            plots.filters(wrong)


def test_filters_refuses_arrays_of_another_rank():
    with pytest.raises(ValueError, match=r"\(K, R, S, C\), received shape \(3, 3\)"):
        plots.filters(np.zeros((3, 3)))


def test_save_writes_a_complete_png_or_nothing(tmp_path, monkeypatch):
    figure = plots.curves(HISTORY)
    path = plots.save(figure, tmp_path / "curves.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.endswith(b"IEND\xaeB`\x82")
    monkeypatch.setattr(figure, "savefig", lambda file, **_: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        plots.save(figure, path)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_save_writes_png_files_only(tmp_path):
    figure = plots.curves(HISTORY)
    for name in ("curves.jpg", "curves"):
        with pytest.raises(plots.PlotError, match=rf"must end in \.png, received .*{name}$"):
            plots.save(figure, tmp_path / name)
    with pytest.raises(OSError, match=r"folder .* does not exist: .*none/curves\.png"):
        plots.save(figure, tmp_path / "none" / "curves.png")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"not a regular file: .*pipe\.png"):
        plots.save(figure, pipe)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_error_of_a_failed_save_names_the_path(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"

    def full(temporary):
        raise OSError(28, "No space left on device", str(temporary))

    monkeypatch.setattr("gpuconv.system.files._make_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        plots.save(plots.curves(HISTORY), path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Key backend:\n  no such"), "ValueError: Key backend: no such"),
        (RuntimeError("latex is\nmissing"), "RuntimeError: latex is missing"),
        (UserWarning("Glyph 9 missing"), "UserWarning: Glyph 9 missing"),
        (OSError(28, "No space left on device", "x.png"), "x.png: No space left on device"),
        (MemoryError(), "MemoryError: "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_any_error_while_drawing_is_one_line(error, message, tmp_path):
    def make():
        raise error

    with pytest.raises(plots.PlotError) as raised:
        plots.draw(tmp_path / "x.png", make)
    assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_drawing_is_not_reported_as_a_failed_picture(tmp_path):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plots.draw(tmp_path / "x.png", make)


def test_a_folder_in_place_of_a_picture_is_reported_before_drawing(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(plots.PlotError, match=r"x\.png: exists and is not a regular file"):
        plots.draw(tmp_path / "x.png", lambda: pytest.fail("drawn"))


def test_without_matplotlib_the_error_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; from gpuconv import plots; plots.curves([{'epoch': 1}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MatplotlibError: pictures need matplotlib: python -m pip install 'gpuconv[plot]'" in done.stderr
