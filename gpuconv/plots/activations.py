"""The activations of one image: the volumes of a net's layers, slice by slice, and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.arguments import class_number, integer
from gpuconv.backends import to_numpy
from gpuconv.plots.canvas import FAINT, GOOD, INK, MUTED, TIMES, WARM, draw_text, enlarge, new_figure, show
from gpuconv.plots.colors import scale_of, signed_colors
from gpuconv.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def activations(
    image: Array,
    volumes: Sequence[tuple[str, Array]],
    scores: Array,
    classes: Sequence[str],
    *,
    truth: int | Array | None = None,
    rows: int = 10,
    title: str = "",
) -> Figure:
    """The activations of one image, drawn as in the CS231n notes.

    The raw image is on the left. Each layer has a column with its name, the size of its volume, and the volume's first
    `rows` slices. The five best scores are on the right, sorted, with labels. Slices of one volume share one scale:
    negative is blue, zero dark, positive amber.

    Args:
        image: (H, W) or (H, W, C), uint8 or floats between 0 and 1. If C is not 3, the mean of the channels is drawn
            in gray.
        volumes: (name, (H, W, C) or (C,) array) of each layer. All arrays may be on any device.
        scores: (classes,) probabilities.
        classes: Their names.
        truth: The index of the true class, if known; also as an array of one element.
        rows: The largest number of slices drawn of each volume.
        title: Above the picture; "" for none.

    Raises:
        TypeError: An argument has another type.
        ValueError: `truth` or `rows` is out of range, the numbers of scores and of names differ, or the image or a
            volume has another shape.
    """
    image, scores = to_numpy(image, "an image"), to_numpy(scores, "scores").astype(np.float64).ravel()
    if not isinstance(classes, Sized):
        raise TypeError(f"classes are a list of names, received {type(classes).__name__}")
    if len(scores) != len(classes):
        raise ValueError(f"{len(scores)} scores but {len(classes)} class names")
    integer("rows", rows, 1)
    if truth is not None:
        truth = class_number("truth", truth, len(classes) - 1)
    if not isinstance(volumes, Iterable):
        raise TypeError(f"volumes are pairs (name, array), received {type(volumes).__name__}")
    stacks = [(str(name), _as_volume(volume)) for name, volume in map(_as_pair, volumes)]
    shown = max([1, *(min(rows, volume.shape[2]) for _, volume in stacks)])

    gap, scores_height = 6, 200
    tile = max(84, (scores_height + gap) // shown - gap)
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


def _as_pair(pair: object) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"volumes are pairs (name, array), received {type(pair).__name__} in place of one")
    return pair[0], pair[1]


def _as_volume(volume: Array) -> np.ndarray:
    """A volume (H, W, C) unchanged, or the output (C,) of an FC layer as a 1x1 map."""
    volume = to_numpy(volume, "a layer's volume").astype(np.float32)
    if volume.ndim not in (1, 3) or not volume.size:
        raise ValueError(f"a layer's volume is (H, W, C) or (C,), with no size of 0, received shape {volume.shape}")
    return volume.reshape(1, 1, -1) if volume.ndim == 1 else volume


def _as_image(image: np.ndarray) -> np.ndarray:
    if image.dtype.kind in "iuc" and image.dtype != np.uint8:  # the range of other integers is unknown
        raise TypeError(f"an image is uint8 or floats between 0 and 1, received {image.dtype}")
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"an image is (H, W) or (H, W, C), with no size of 0, received shape {image.shape}")
    image = np.atleast_3d(image)
    image = image / 255 if image.dtype == np.uint8 else np.clip(image + 0.0, 0, 1)  # + 0.0: booleans become floats
    if image.shape[2] != 3:
        image = image.mean(axis=2, keepdims=True)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _size(volume: np.ndarray) -> str:
    return TIMES.join(map(str, volume.shape))


def _mosaic(volume: np.ndarray, tile: int, gap: int, bound: float) -> np.ndarray:
    """The slices of a volume, one below the other, as one RGBA image with transparent gaps."""
    sheet = np.zeros((volume.shape[2] * (tile + gap) - gap, tile, 4), np.float32)
    for number in range(volume.shape[2]):
        drawn = enlarge(signed_colors(volume[:, :, number], bound), tile)
        y, x = number * (tile + gap) + (tile - drawn.shape[0]) // 2, (tile - drawn.shape[1]) // 2
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], :3] = drawn
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], 3] = 1
    return sheet


def _draw_scores(axes: Axes, scores: np.ndarray, classes: Sequence[str], truth: int | None) -> None:
    """The five best scores as bars, best first; the right class is green."""
    best = np.argsort(-scores, kind="stable")[:5]
    for row, index in enumerate(best):
        color = GOOD if index == truth else WARM if row == 0 else MUTED
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
