"""Errors as shares of their bounds, and the differences of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.plots.canvas import (
    COLD,
    GOOD,
    INK,
    MUTED,
    PAPER,
    WARM,
    beside,
    draw_text,
    heading,
    new_figure,
    show,
    style_axes,
)
from gpuconv.plots.colors import DECADES, share_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(rows: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Errors as shares of their bounds, a row for each name, on a logarithmic axis with a line at the bound.

    Args:
        rows: By name, the share by series: {"conv2d of conv1, forward": {"A": 0.1, "B": 0.02}}. 0 is drawn at the left
            edge, infinity at the right one.
        title: Above the rows; "" for none.

    Raises:
        TypeError: rows is not a dictionary of dictionaries.
        ValueError: There is no row.
    """
    _expect_rows(rows)
    if not rows:
        raise ValueError("a picture of errors needs at least one row, received none")
    series = [*dict.fromkeys(name for row in rows.values() for name in row)]
    finite = [share for row in rows.values() for share in row.values() if 0 < share < np.inf]
    low, high = min(0.1, *finite, 1) / 4, max(1, *finite, 1) * 4
    left, top, height, width = 380, 100, 26, 1300
    total = top + height * len(rows) + 90
    figure = new_figure(width, total)
    heading(figure, title or "errors by their bounds", width, total)
    axes = figure.add_axes((left / width, 90 / total, (width - left - 70) / width, height * len(rows) / total))
    style_axes(axes, "error / bound")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.axvline(1, color=WARM, lw=1.2, ls="--")
    for at, (name, row) in enumerate(rows.items()):
        style = {"color": INK, "fontsize": 6.5, "ha": "right", "va": "center", "transform": beside(axes)}
        draw_text(axes, -0.02, at, name, max_width=left - 40, **style)
        for number, each in enumerate(series):
            if each in row:
                share = float(np.clip(row[each], low, high))
                color = (COLD, GOOD)[number % 2] if row[each] <= 1 else WARM
                size = 5 if row[each] <= 1 else 7
                axes.plot([share], [at], color=color, marker="os"[number % 2], ms=size, clip_on=False)
                if row[each] > 1:
                    near: Any = {"xytext": (-8, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
                    words = f"{each}: {row[each]:.2g} times its bound"
                    axes.annotate(words, (share, at), color=WARM, fontsize=6.5, **near)
    draw_text(axes, 1, -0.75, "the bound", color=WARM, fontsize=7, ha="center")
    if len(series) > 1:
        for number, each in enumerate(series):
            words, color = f"{'●■'[number % 2]} {each}", (COLD, GOOD)[number % 2]
            figure.text((left + 60 * number) / width, 25 / total, words, color=color, fontsize=7)
    return figure


def differences(
    rows: Mapping[tuple[str, str], Mapping[int, float]],
    *,
    first: tuple[int, tuple[str, str]] | None = None,
    title: str = "",
) -> Figure:
    """The tensors of two runs, step by step: dark where they are alike, blue where rounding explains the difference,
    amber where it does not, and empty where nothing was recorded.

    Args:
        rows: By group and name of a tensor, the difference by step as a share of what rounding explains.
        first: The step and the tensor to mark.
        title: Above the picture; "" for none.

    Raises:
        TypeError: rows is not a dictionary of dictionaries.
        ValueError: There is no step, or `first` is not among the rows.
    """
    _expect_rows(rows)
    steps = sorted({step for row in rows.values() for step in row})
    if not steps:
        raise ValueError("a picture of differences needs at least one step, received none")
    if first and first[0] not in rows.get(first[1], {}):
        raise ValueError(f"first must be a step of a tensor among the rows, received {first}")
    across = min(len(steps), 600)
    column = {step: at * across // len(steps) for at, step in enumerate(steps)}
    cells = np.full((len(rows), across), np.nan)
    for at, row in enumerate(rows.values()):
        for step, share in row.items():
            cells[at, column[step]] = np.fmax(cells[at, column[step]], share)
    colors = np.where(np.isnan(cells)[..., None], 0, share_colors(np.nan_to_num(cells, posinf=np.inf)))
    pixels = np.dstack([colors, ~np.isnan(cells)]).astype(np.float32)
    left, top, height, width = 250, 90, 15, 1300
    total = top + height * len(rows) + 120
    figure = new_figure(width, total)
    heading(figure, title or "two runs, step by step", width, total)
    axes = figure.add_axes((left / width, 120 / total, (width - left - 190) / width, height * len(rows) / total))
    style_axes(axes, "step")
    axes.grid(visible=False)
    axes.imshow(pixels, interpolation="nearest", aspect="auto", extent=(-0.5, len(steps) - 0.5, len(rows) - 0.5, -0.5))
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 12)).astype(int))
    axes.set_xticks(shown, [str(steps[at]) for at in shown])
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    groups: dict[str, list[int]] = {}
    for at, (group, name) in enumerate(rows):
        groups.setdefault(group, []).append(at)
        draw_text(axes, -0.01, at, name, color=MUTED, fontsize=4.5, ha="right", va="center", transform=beside(axes))
    for group, inside in groups.items():
        draw_text(axes, 1.01, float(np.mean(inside)), group, color=INK, fontsize=7, va="center", transform=beside(axes))
        axes.axhline(inside[-1] + 0.5, color=PAPER, lw=1.5)
    if first:
        axes.plot([steps.index(first[0])], [[*rows].index(first[1])], color=INK, marker="o", ms=9, mfc="none", mew=1.6)
    key = figure.add_axes((left / width, 28 / total, 300 / width, 12 / total))
    show(key, share_colors(np.logspace(-DECADES, DECADES, 181)[None]), label="key")
    for x, words, alignment in (
        (0, f"1e-{DECADES}", "left"),
        (150, "what rounding explains", "center"),
        (300, f"1e{DECADES}", "right"),
    ):
        figure.text((left + x) / width, 50 / total, words, color=MUTED, fontsize=6, ha=alignment)
    figure.text((left + 330) / width, 30 / total, "dark: the same bits", color=MUTED, fontsize=6)
    return figure


def _expect_rows(rows: object) -> None:
    wrong = [each for each in (rows.values() if isinstance(rows, Mapping) else [rows]) if not isinstance(each, Mapping)]
    if wrong:
        raise TypeError(
            f"rows must be a dictionary of dictionaries, received {type(wrong[0]).__name__} in place of one"
        )
