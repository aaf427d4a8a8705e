"""The filters of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpuconv.backends import to_numpy
from gpuconv.integers import ceil_div
from gpuconv.plots.canvas import INK, MUTED, TIMES, draw_text, enlarge, new_figure, show
from gpuconv.plots.colors import scale_of, signed_colors
from gpuconv.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_TILES = 4096


def filters(weight: Array, *, title: str = "") -> Figure:
    """The filters of a layer as a grid: in color if they read 3 channels, else one tile for each filter and channel.

    One scale serves all tiles: in color zero is mid-gray; otherwise negative is blue, zero dark, positive amber. Of
    more than 4096 tiles only the first 4096 are drawn, and the text below the title says so.

    Args:
        weight: (K, R, S, C), on any device.
        title: Above the grid; by default "filters".

    Raises:
        TypeError: weight is not an array.
        ValueError: weight has another rank, or is empty.
    """
    if not hasattr(weight, "shape"):
        raise TypeError(f"filters are an array, such as net['conv1.weight'], received {type(weight).__name__}")
    weight = to_numpy(weight, "filters").astype(np.float32)
    if weight.ndim != 4:
        raise ValueError(f"filters are (K, R, S, C), received shape {weight.shape}")
    if not weight.size:
        raise ValueError(f"filters are (K, R, S, C), with no size of 0, received shape {weight.shape}")
    bound = scale_of(weight)
    colored = weight.shape[3] == 3
    total = len(weight) if colored else len(weight) * weight.shape[3]
    if colored:
        tiles = weight[:MOST_TILES] / (2 * bound) + 0.5
    else:
        first = weight[: ceil_div(MOST_TILES, weight.shape[3])]  # the filters whose tiles are drawn
        tiles = signed_colors(np.moveaxis(first, 3, 1).reshape(-1, *weight.shape[1:3])[:MOST_TILES], bound)
    tiles = np.clip(tiles, 0, 1)
    widest = int(np.ceil(np.sqrt(len(tiles) * 2)))
    across = min(range(max(1, widest // 2), widest + 1), key=lambda n: (-len(tiles) % n, -n))  # full rows if possible
    down = ceil_div(len(tiles), across)
    tile = max(24, min(110, 1400 // across))
    gap = max(2, tile // 12)
    width, height = max(460, across * (tile + gap) - gap + 100), down * (tile + gap) - gap + 150
    sheet = np.ones((down * (tile + gap) - gap, across * (tile + gap) - gap, 4), np.float32)
    sheet[..., 3] = 0
    for number, pixels in enumerate(tiles):
        y, x = (tile + gap) * (number // across), (tile + gap) * (number % across)
        drawn = enlarge(pixels, tile)
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], :3] = drawn
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], 3] = 1
    figure = new_figure(width, height)
    heading = {"color": INK, "fontsize": 10, "weight": "bold", "va": "center"}
    draw_text(figure, 50 / width, 1 - 42 / height, title or "filters", max_width=width - 100, **heading)
    size = TIMES.join(map(str, weight.shape[1:]))
    note = f"{weight.shape[0]} filters of {size}, largest weight {np.abs(weight).max(initial=0):.2g}"
    note += f"; the first {len(tiles)} of {total} tiles" if len(tiles) < total else ""
    figure.text(50 / width, 1 - 76 / height, note, color=MUTED, fontsize=7, va="center")
    axes = figure.add_axes((50 / width, 50 / height, sheet.shape[1] / width, sheet.shape[0] / height))
    show(axes, sheet, label="filters")
    return figure
