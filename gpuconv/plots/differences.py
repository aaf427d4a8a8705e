"""The differences of two runs, step by step and tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpuconv.plots.canvas import INK, MUTED, PAPER, draw_text, heading, new_figure, row_transform, show, style_axes
from gpuconv.plots.colors import DECADES, share_colors
from gpuconv.plots.shares import expect_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        title: Above the picture; by default "two runs, step by step".

    Raises:
        TypeError: rows is not a dictionary of dictionaries of numbers.
        ValueError: There is no step, or `first` is not among the rows.
    """
    expect_rows(rows)
    steps = sorted({step for row in rows.values() for step in row})
    if not steps:
        raise ValueError("a picture of differences needs at least one step, received none")
    if first is not None and first not in [(step, tensor) for tensor, row in rows.items() for step in row]:
        raise ValueError(f"first must be (step, tensor) such that rows[tensor] has this step, received {first!r}")
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
        draw_text(
            axes, -0.01, at, name, color=MUTED, fontsize=4.5, ha="right", va="center", transform=row_transform(axes)
        )
    for group, inside in groups.items():
        draw_text(
            axes, 1.01, float(np.mean(inside)), group, color=INK, fontsize=7, va="center", transform=row_transform(axes)
        )
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
