"""Errors as shares of their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.plots.canvas import (
    COLD,
    GOOD,
    INK,
    WARM,
    draw_text,
    heading,
    is_number,
    new_figure,
    row_transform,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(rows: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Errors as shares of their bounds, a row for each name, on a logarithmic axis with a line at the bound.

    Args:
        rows: By name, the share by series: {"conv2d of conv1, forward": {"A": 0.1, "B": 0.02}}. 0 is drawn at the left
            edge, infinity and NaN at the right one.
        title: Above the rows; by default "errors as shares of their bounds".

    Raises:
        TypeError: rows is not a dictionary of dictionaries of numbers.
        ValueError: There is no row.
    """
    expect_rows(rows)
    if not rows:
        raise ValueError("a picture of errors needs at least one row, received none")
    series = [*dict.fromkeys(name for row in rows.values() for name in row)]
    finite = [share for row in rows.values() for share in row.values() if 0 < share < np.inf]
    low, high = min(0.1, *finite, 1) / 4, max(1, *finite, 1) * 4
    left, top, height, width = 380, 100, 26, 1300
    total = top + height * len(rows) + 90
    figure = new_figure(width, total)
    heading(figure, title or "errors as shares of their bounds", width, total)
    axes = figure.add_axes((left / width, 90 / total, (width - left - 70) / width, height * len(rows) / total))
    style_axes(axes, "error / bound")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.axvline(1, color=WARM, lw=1.2, ls="--")
    for at, (name, row) in enumerate(rows.items()):
        style = {"color": INK, "fontsize": 6.5, "ha": "right", "va": "center", "transform": row_transform(axes)}
        draw_text(axes, -0.02, at, name, max_width=left - 40, **style)
        for number, each in enumerate(series):
            if each in row:
                value = np.inf if np.isnan(row[each]) else row[each]
                share = float(np.clip(value, low, high))
                color = (COLD, GOOD)[number % 2] if value <= 1 else WARM
                size = 5 if value <= 1 else 7
                axes.plot([share], [at], color=color, marker="os"[number % 2], ms=size, clip_on=False)
                if value > 1:
                    near: Any = {"xytext": (-8, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
                    words = f"{each}: {row[each]:.2g} times its bound"
                    axes.annotate(words, (share, at), color=WARM, fontsize=6.5, parse_math=False, **near)
    draw_text(axes, 1, -0.75, "the bound", color=WARM, fontsize=7, ha="center")
    if len(series) > 1:
        for number, each in enumerate(series):
            words, color = f"{'●■'[number % 2]} {each}", (COLD, GOOD)[number % 2]
            figure.text((left + 60 * number) / width, 25 / total, words, color=color, fontsize=7, parse_math=False)
    return figure


def expect_rows(rows: Any) -> None:  # noqa: ANN401 - checked here
    """Refuse rows that are not a dictionary of dictionaries of numbers."""
    wrong = [each for each in (rows.values() if isinstance(rows, Mapping) else [rows]) if not isinstance(each, Mapping)]
    if wrong:
        raise TypeError(
            f"rows must be a dictionary of dictionaries, received {type(wrong[0]).__name__} in place of a dictionary"
        )
    for name, row in rows.items():
        for share in row.values():
            if not is_number(share):
                raise TypeError(f"the shares of {name!r} must be numbers, received {share!r}")
