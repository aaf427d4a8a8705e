"""Curves: loss and accuracy of a run by epoch, and the loss by learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.arguments import positive
from gpuconv.plots.canvas import COLD, GOOD, INK, MUTED, WARM, draw_text, is_number, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {"train": COLD, "validation": GOOD, "test": WARM}


def curves(history: Iterable[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Loss and accuracy by epoch, for the training, validation and test images.

    Args:
        history: One mapping for each epoch with "epoch" and any of "train_loss", "train_accuracy", "validation_loss",
            ..., "test_accuracy" (accuracies between 0 and 1). Missing measures are not drawn. Without any accuracy, as
            in a regression, only the loss is drawn.
        title: Above the curves; "" for none.

    Raises:
        TypeError: `history` is not a list, a record is not a mapping, or an epoch or a measure is not a number.
        ValueError: An empty history, or a record without "epoch".
    """
    if not isinstance(history, Iterable):
        raise TypeError(f"a history is a list of dictionaries, received {type(history).__name__}")
    history = [*history]
    if not history:
        raise ValueError("curves need at least one epoch, received an empty history")
    for record in history:
        if not isinstance(record, Mapping):
            raise TypeError(f"a history is a list of dictionaries, received {type(record).__name__}")
        if "epoch" not in record:
            raise ValueError(f"each record needs an entry 'epoch', received the entries {', '.join(map(str, record))}")
        for key in ("epoch", *(f"{part}_{what}" for part in PARTS for what in ("loss", "accuracy"))):
            if record.get(key) is not None and not is_number(record[key]):
                raise TypeError(f"{key} must be a number, received {record[key]!r}")
    measured = {key for record in history for key, value in record.items() if value is not None}
    panels = [("loss", 1, "{:.3f}")]
    if any(f"{part}_accuracy" in measured for part in PARTS):  # a regression has none
        panels.append(("accuracy", 100, "{:.1f} %"))
    width, left, distance = 15 + 742.5 * len(panels), 67.5, 742.5  # in pixels
    figure = new_figure(round(width), 620)
    if title:
        style = {"color": INK, "fontsize": 11, "weight": "bold", "va": "center"}
        draw_text(figure, left / width, 0.94, title, max_width=width - 135, **style)
    for number, (quantity, scale, text_format) in enumerate(panels):
        axes = figure.add_axes(((left + distance * number) / width, 0.14, 502.5 / width, 0.66 if title else 0.76))
        axes.set_title(quantity, color=MUTED, fontsize=9, loc="left", pad=10)
        ends = []
        for part, color in PARTS.items():
            key = f"{part}_{quantity}"
            points = [(row["epoch"], scale * row[key]) for row in history if row.get(key) is not None]
            if points:
                x, y = zip(*points)
                size = 3 if len(x) < 40 else 0
                axes.plot(x, y, color=color, lw=1.8, marker="o", ms=size, label=part, clip_on=False)
                ends.append([y[-1], f"{part} {text_format.format(y[-1])}", color])
        _style_curves(axes, [row["epoch"] for row in history])
        _label_ends(axes, ends)
    return figure


def rates(
    rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggestion: float | None = None, *, title: str = ""
) -> Figure:
    """The loss by learning rate, on a logarithmic axis, as found by `gpuconv.training.lr_find`. A loss that diverges
    leaves the picture at the top; NaN is not drawn.

    Args:
        rates, losses, smoothed: (steps,) each; rates above 0.
        suggestion: A rate to mark, above 0.
        title: Above the curve; by default "loss by learning rate".

    Raises:
        TypeError: The suggestion is not a number.
        ValueError: There is no step, the lengths differ, a rate or the suggestion is not above 0, or no smoothed
            loss is finite.
    """
    if not len(rates):
        raise ValueError("a picture of rates needs at least one step, received none")
    if len({len(rates), len(losses), len(smoothed)}) > 1:
        lengths = f"{len(rates)}, {len(losses)} and {len(smoothed)}"
        raise ValueError(f"rates, losses and smoothed must be of one length, received {lengths}")
    if not np.min(rates) > 0:  # NaN too
        raise ValueError(f"rates must be above 0, received {np.min(rates)}")
    finite, smooth = (np.extract(np.isfinite(values), values) for values in (losses, smoothed))
    if not smooth.size:
        raise ValueError("a picture of rates needs at least one finite loss in `smoothed`, received none")
    if suggestion is not None:
        positive("suggestion", suggestion)
    figure = new_figure(1100, 640)
    draw_text(
        figure,
        0.08,
        0.94,
        title or "loss by learning rate",
        max_width=940,
        color=INK,
        fontsize=11,
        weight="bold",
        va="center",
    )
    axes = figure.add_axes((0.08, 0.14, 0.86, 0.7))
    axes.plot(rates, losses, color=COLD, lw=1, alpha=0.45, label="loss")
    axes.plot(rates, smoothed, color=COLD, lw=2, label="smoothed")
    low, first = float(np.min(smooth)), float(smooth[0])
    margin = max(first - low, 0.1 * abs(first), 1e-12)  # above 0 even if every loss is 0
    bottom, top = min([low, *finite]), max([first, *finite])
    axes.set_ylim(float(bottom) - 0.1 * margin, min(first + margin, float(top) + 0.1 * margin))
    style_axes(axes, "learning rate")
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1] if len(rates) > 1 else 10 * rates[0])
    if suggestion is not None:
        axes.axvline(suggestion, color=WARM, lw=1.2, ls="--")
        at = float(np.interp(np.log(suggestion), np.log(rates), smoothed))
        axes.plot([suggestion], [at], color=WARM, marker="o", ms=6)
        left = suggestion < np.sqrt(rates[0] * rates[-1])  # the half that has space for the text
        axes.annotate(
            f"falls fastest: {suggestion:.2g}",
            (suggestion, at),
            xytext=(8, 8) if left else (-8, -18),
            textcoords="offset points",
            color=WARM,
            fontsize=8,
            ha="left" if left else "right",
        )
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_color(MUTED)
    return figure


def _style_curves(axes: Axes, epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    style_axes(axes, "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.set_xlim(min(epochs) - 0.5 * (len(set(epochs)) == 1), max(epochs) + 0.5 * (len(set(epochs)) == 1))


def _label_ends(axes: Axes, ends: list[list[Any]]) -> None:
    """Write the name and last value of each line at its right end, separated where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ends.sort()
    for lower, upper in pairwise(ends):
        upper[0] = max(upper[0], lower[0] + gap)
    for y, text, color in ends:
        axes.text(1.02, (y - low) / (high - low), text, color=color, fontsize=8, va="center", transform=axes.transAxes)
