"""The curves of a run: which lines are drawn, and where their labels are."""

from __future__ import annotations

import pytest

from gpuconv import plots
from tests.plots.figures import HISTORY

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")


def test_curves_draws_loss_and_accuracy_of_training_and_test():
    loss, accuracy = plots.curves(HISTORY).axes
    assert (loss.get_title("left"), accuracy.get_title("left")) == ("loss", "accuracy")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn == {"train": [[1, 2.0], [2, 1.0]], "test": [[1, 1.5], [2, 1.25]]}
    drawn = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert drawn == {"train": [[1, 50.0], [2, 75.0]], "test": [[1, 62.5], [2, 87.5]]}
    assert {text.get_text() for text in accuracy.texts} == {"train 75.0 %", "test 87.5 %"}


def test_the_dots_of_the_first_and_last_epoch_are_drawn_whole():
    assert [line.get_clip_on() for axes in plots.curves(HISTORY).axes for line in axes.lines] == [False] * 4


def test_curves_draws_the_epochs_of_a_generator():
    loss, _ = plots.curves(row for row in HISTORY).axes
    assert [line.get_label() for line in loss.lines] == ["train", "test"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_rates_are_drawn_although_a_loss_is_not_finite(wrong):
    (axes,) = plots.rates([0.1, 1.0, 10.0], [2.0, 1.0, wrong], [2.0, 1.0, wrong], 1.0).axes
    assert axes.get_ylim() == (0.9, 2.1)


def test_curves_draws_a_single_epoch_without_test_results():
    row = {"epoch": 1, "train_loss": 2.0, "test_loss": None, "train_accuracy": 0.5}
    loss, accuracy = plots.curves([row]).axes
    assert [line.get_label() for line in loss.lines] == ["train"]
    assert [line.get_label() for line in accuracy.lines] == ["train"]


def test_the_axis_of_a_single_epoch_has_no_fractions_of_epochs():
    for axes in plots.curves(HISTORY[:1]).axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_curves_of_a_regression_have_no_panel_for_the_accuracy():
    figure = plots.curves([{"epoch": 1, "train_loss": 0.5, "train_accuracy": None, "test_loss": 0.7}], title="mse")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "loss"


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
