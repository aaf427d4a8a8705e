"""Volumes and filters as tiles of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.plots.canvas import FAINT, GOOD, INK, MUTED, TIMES, WARM, draw_text, new_figure, show
from gpuconv.plots.colors import scale_of, signed_colors
from gpuconv.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def activations(
    image: np.ndarray,
    volumes: Sequence[tuple[str, Array]],
    scores: np.ndarray,
    classes: Sequence[str],
    *,
    truth: int | None = None,
    rows: int = 10,
    title: str = "",
) -> Figure:
    """The activations of one image, drawn as in the CS231n notes.

    The raw image is on the left. Each layer has a column with its name, the size of its volume, and the volume's first
    `rows` slices. The five best scores are on the right, sorted, with labels. Slices of one volume share one scale:
    negative is blue, zero dark, positive amber.

    Args:
        image: (H, W) or (H, W, C), uint8 or floats between 0 and 1; unless it has 3 channels, their mean is drawn in
            gray.
        volumes: (name, (H, W, C) or (C,) array) of each layer.
        scores: (classes,) probabilities.
        classes: Their names.
        truth: The index of the true class, if known.
        rows: The largest number of slices drawn of each volume.
        title: Above the picture; "" for none.

    Raises:
        ValueError: The numbers of scores and of names differ.
    """
    scores = np.asarray(scores, np.float64).ravel()
    if len(scores) != len(classes):
        raise ValueError(f"{len(scores)} scores but {len(classes)} class names")
    stacks = [(name, _as_volume(volume)) for name, volume in volumes]
    shown = max([1, *(min(rows, volume.shape[2]) for _, volume in stacks)])

    gap, room = 6, 200  # the scores need this height
    tile = max(84, (room + gap) // shown - gap)
    column, height = tile + 20, shown * (tile + gap) - gap
    image_side = min(height, 330)
    left, top, bars = 60, 170, 430
    columns_at = left + image_side + 60
    bars_at = columns_at + len(stacks) * column + 30
    width, total = bars_at + bars + 50, top + height + 90
    figure = new_figure(width, total)

    def add_axes(x: float, y: float, w: float, h: float) -> Axes:
        """Axes at a position in pixels from the figure's top left corner."""
        return figure.add_axes((x / width, 1 - (y + h) / total, w / width, h / total))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        draw_text(figure, x / width, 1 - y / total, text, **{"color": MUTED, "fontsize": 7, "va": "center", **style})

    if title:
        write(left, 45, title, max_width=width - left - 50, color=INK, fontsize=11, weight="bold")

    picture = add_axes(left, top + (height - image_side) / 2, image_side, image_side)
    show(picture, _as_image(image), label="image")
    middle, below = left + image_side / 2, top + (height + image_side) / 2
    write(middle, below - image_side - 48, "image", color=INK, fontsize=8, ha="center")
    write(middle, below - image_side - 24, _size(np.atleast_3d(image)), ha="center")
    if truth is not None:
        write(
            middle,
            below + 28,
            f"this is: {classes[truth]}",
            max_width=image_side + left,
            color=INK,
            fontsize=8,
            ha="center",
        )

    for number, (name, volume) in enumerate(stacks):
        x = columns_at + number * column
        count = min(shown, volume.shape[2])
        axes = add_axes(x, top, tile, count * (tile + gap) - gap)
        show(axes, _mosaic(volume[:, :, :count], tile, gap, scale_of(volume)), label=name)
        write(x + tile / 2, top - 48, name, color=INK, fontsize=8 if len(name) < 9 else 6, ha="center")
        write(x + tile / 2, top - 24, _size(volume), fontsize=7 if len(_size(volume)) < 9 else 5.5, ha="center")
        if count < volume.shape[2]:
            write(x + tile / 2, top + height + 20, f"{count} of {volume.shape[2]}", fontsize=6, ha="center")

    _draw_scores(add_axes(bars_at, top + (height - image_side) / 2, bars, image_side), scores, classes, truth)
    write(bars_at, top + (height - image_side) / 2 - 24, "top scores", color=INK, fontsize=8)
    _draw_color_key(add_axes(columns_at + 75, total - 38, 180, 10))
    write(columns_at, total - 33, "negative")
    write(columns_at + 270, total - 33, "positive (each layer on its own scale)")
    return figure


def filters(weight: np.ndarray, *, title: str = "") -> Figure:
    """The filters of a layer as a grid: in color if they read 3 channels, else one tile for each filter and channel.

    One scale serves all tiles: in color zero is mid-gray; otherwise negative is blue, zero dark, positive amber.

    Args:
        weight: (K, R, S, C).
        title: Above the grid; "" for none.

    Raises:
        TypeError: weight is not an array.
        ValueError: weight has another rank.
    """
    if not hasattr(weight, "shape"):
        raise TypeError(f"filters are an array, such as net['conv1.weight'], received {type(weight).__name__}")
    weight = np.asarray(weight, np.float32)
    if weight.ndim != 4:
        raise ValueError(f"filters are (K, R, S, C), received shape {weight.shape}")
    bound = scale_of(weight)
    colored = weight.shape[3] == 3
    tiles = weight / (2 * bound) + 0.5 if colored else signed_colors(np.moveaxis(weight, 3, 1), bound)
    tiles = np.clip(tiles.reshape(-1, *weight.shape[1:3], 3), 0, 1)
    widest = int(np.ceil(np.sqrt(len(tiles) * 2)))
    across = min(range(max(1, widest // 2), widest + 1), key=lambda n: (-len(tiles) % n, -n))  # full rows if possible
    down = -(-len(tiles) // across)
    tile = max(24, min(110, 1400 // across))
    gap = max(2, tile // 12)
    width, height = max(460, across * (tile + gap) - gap + 100), down * (tile + gap) - gap + 150
    sheet = np.ones((down * (tile + gap) - gap, across * (tile + gap) - gap, 4), np.float32)
    sheet[..., 3] = 0
    for number, pixels in enumerate(tiles):
        y, x = (tile + gap) * (number // across), (tile + gap) * (number % across)
        drawn = _enlarge(pixels, tile)
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], :3] = drawn
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], 3] = 1
    figure = new_figure(width, height)
    heading = {"color": INK, "fontsize": 10, "weight": "bold", "va": "center"}
    draw_text(figure, 50 / width, 1 - 42 / height, title or "filters", max_width=width - 100, **heading)
    size = TIMES.join(map(str, weight.shape[1:]))
    note = f"{weight.shape[0]} filters of {size}, largest weight {np.abs(weight).max(initial=0):.2g}"
    figure.text(50 / width, 1 - 76 / height, note, color=MUTED, fontsize=7, va="center")
    axes = figure.add_axes((50 / width, 50 / height, sheet.shape[1] / width, sheet.shape[0] / height))
    show(axes, sheet, label="filters")
    return figure


def _as_volume(volume: Array) -> np.ndarray:
    """A volume (H, W, C) unchanged, or the output (C,) of an FC layer as a 1x1 map."""
    volume = np.asarray(volume, np.float32)
    if volume.ndim not in (1, 3):
        raise ValueError(f"a layer's volume is (H, W, C) or (C,), received shape {volume.shape}")
    return volume.reshape(1, 1, -1) if volume.ndim == 1 else volume


def _as_image(image: np.ndarray) -> np.ndarray:
    image = np.atleast_3d(np.asarray(image))
    if image.ndim != 3 or not image.shape[2]:
        raise ValueError(f"an image is (H, W) or (H, W, C), received shape {image.shape}")
    image = image / 255 if image.dtype == np.uint8 else np.clip(image, 0, 1)
    if image.shape[2] != 3:
        image = image.mean(axis=2, keepdims=True)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _size(volume: np.ndarray) -> str:
    return TIMES.join(map(str, volume.shape))


def _enlarge(pixels: np.ndarray, side: int) -> np.ndarray:
    """Nearest-neighbor scaling of (H, W, ...) so that the longer edge is `side`."""
    h, w = pixels.shape[:2]
    tall, wide = max(1, round(side * h / max(h, w))), max(1, round(side * w / max(h, w)))
    return pixels[np.arange(tall) * h // tall][:, np.arange(wide) * w // wide]


def _mosaic(volume: np.ndarray, tile: int, gap: int, bound: float) -> np.ndarray:
    """The slices of a volume, one below the other, as one RGBA image with transparent gaps."""
    sheet = np.zeros((volume.shape[2] * (tile + gap) - gap, tile, 4), np.float32)
    for number in range(volume.shape[2]):
        drawn = _enlarge(signed_colors(volume[:, :, number], bound), tile)
        y, x = number * (tile + gap) + (tile - drawn.shape[0]) // 2, (tile - drawn.shape[1]) // 2
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], :3] = drawn
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], 3] = 1
    return sheet


def _draw_scores(axes: Axes, scores: np.ndarray, classes: Sequence[str], truth: int | None) -> None:
    """The five best scores as bars, best first; the right class is green."""
    best = np.argsort(-scores, kind="stable")[:5]
    for row, index in enumerate(best):
        known = truth is not None
        color = GOOD if known and index == truth else WARM if row == 0 else MUTED
        axes.barh(row, 1, color=FAINT, height=0.26)
        axes.barh(row, scores[index], color=color, height=0.26)
        width = 0.76 * axes.get_window_extent().width  # the rest of the line is for the percentage
        draw_text(axes, 0, row - 0.34, classes[index], max_width=width, color=INK, fontsize=9, va="center")
        axes.text(1, row - 0.34, f"{100 * scores[index]:.1f} %", color=color, fontsize=9, va="center", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(4.2, -0.6)
    axes.set_axis_off()
    axes.set_label("scores")


def _draw_color_key(axes: Axes) -> None:
    show(axes, signed_colors(np.linspace(-1, 1, 181)[None], 1.0), label="key")
