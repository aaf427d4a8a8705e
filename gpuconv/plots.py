"""Pictures of a run: its curves, the activations of one image, the filters of the first layer.

Each function takes plain arrays and returns a matplotlib figure; `save` writes it. Matplotlib (the extra "plot") is
imported when the first picture is drawn. No figure uses pyplot or its global state, so drawing works in a thread, in a
notebook and without a display.
"""

from __future__ import annotations

import errno
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150
DECADES = 6  # orders of magnitude above and below a bound that the colors distinguish
TIMES = "\N{MULTIPLICATION SIGN}"
INK, MUTED, FAINT, PAPER = "#e8e6e3", "#8d93a5", "#2a2f3d", "#11141b"
WARM, COLD, GOOD = "#ffb454", "#59c2ff", "#7fd962"


class PlotError(RuntimeError):
    """A picture cannot be drawn; the message says why in one line."""


class NoMatplotlibError(PlotError):
    """No picture can be drawn: matplotlib is not installed or cannot be imported."""


def curves(history: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Loss and accuracy by epoch, for the training, validation and test images.

    Args:
        history: One mapping for each epoch with "epoch" and any of "train_loss", "train_accuracy", "validation_loss",
            ..., "test_accuracy" (accuracies between 0 and 1); missing measures are not drawn.
        title: Above the curves; "" for none.

    Raises:
        ValueError: An empty history.
    """
    if not history:
        raise ValueError("curves need at least one epoch, received an empty history")
    figure = _figure(1500, 620)
    if title:
        _text(figure, 0.045, 0.94, title, max_width=1365, color=INK, fontsize=11, weight="bold", va="center")
    for number, (quantity, scale, form) in enumerate((("loss", 1, "{:.3f}"), ("accuracy", 100, "{:.1f} %"))):
        axes = figure.add_axes((0.045 + 0.495 * number, 0.14, 0.335, 0.66 if title else 0.76))
        axes.set_title(quantity, color=MUTED, fontsize=9, loc="left", pad=10)
        ends = []
        for part, color in (("train", COLD), ("validation", GOOD), ("test", WARM)):
            key = f"{part}_{quantity}"
            points = [(row["epoch"], scale * row[key]) for row in history if row.get(key) is not None]
            if points:
                x, y = zip(*points)
                axes.plot(x, y, color=color, lw=1.8, marker="o", ms=3 if len(x) < 40 else 0, label=part)
                ends.append([y[-1], f"{part} {form.format(y[-1])}", color])
        _style_curves(axes, [row["epoch"] for row in history])
        _label_ends(axes, ends)
    return figure


def rates(
    rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggestion: float | None = None, *, title: str = ""
) -> Figure:
    """The loss by learning rate, on a logarithmic axis, as found by `gpuconv.training.lr_find`. A loss that diverges
    leaves the picture at the top.

    Args:
        rates, losses, smoothed: (steps,) each.
        suggestion: A rate to mark.
        title: Above the curve; "" for none.

    Raises:
        ValueError: There is no step.
    """
    if not len(rates):
        raise ValueError("a picture of rates needs at least one step, received none")
    figure = _figure(1100, 640)
    _text(
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
    low, first = float(np.min(smoothed)), float(smoothed[0])
    margin = max(first - low, 0.1 * abs(first), 1e-12)
    axes.set_ylim(float(np.min(losses)) - 0.1 * margin, min(first + margin, float(np.max(losses)) + 0.1 * margin))
    _style(axes, "learning rate")
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


def activations(
    image: np.ndarray,
    volumes: Sequence[tuple[str, np.ndarray]],
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
        image: (H, W) or (H, W, C), uint8 or floats between 0 and 1; without exactly 3 channels their mean is drawn in
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

    tile, gap, column = 84, 6, 104
    height = shown * (tile + gap) - gap
    big = min(height, 330)
    left, top, bars = 60, 170, 430
    columns_at = left + big + 60
    bars_at = columns_at + len(stacks) * column + 30
    width, total = bars_at + bars + 50, top + height + 90
    figure = _figure(width, total)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes at a position in pixels from the figure's top left corner."""
        return figure.add_axes((x / width, 1 - (y + h) / total, w / width, h / total))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        _text(figure, x / width, 1 - y / total, text, **{"color": MUTED, "fontsize": 7, "va": "center", **style})

    if title:
        write(left, 45, title, max_width=width - left - 50, color=INK, fontsize=11, weight="bold")

    picture = place(left, top + (height - big) / 2, big, big)
    _show(picture, _as_image(image), label="image")
    middle, below = left + big / 2, top + (height + big) / 2
    write(middle, below - big - 48, "image", color=INK, fontsize=8, ha="center")
    write(middle, below - big - 24, _size(np.atleast_3d(image)), ha="center")
    if truth is not None:
        write(
            middle, below + 28, f"this is: {classes[truth]}", max_width=big + left, color=INK, fontsize=8, ha="center"
        )

    for number, (name, volume) in enumerate(stacks):
        x = columns_at + number * column
        count = min(shown, volume.shape[2])
        axes = place(x, top, tile, count * (tile + gap) - gap)
        _show(axes, _mosaic(volume[:, :, :count], tile, gap, _scale(volume)), label=name)
        write(x + tile / 2, top - 48, name, color=INK, fontsize=8 if len(name) < 9 else 6, ha="center")
        write(x + tile / 2, top - 24, _size(volume), fontsize=7 if len(_size(volume)) < 9 else 5.5, ha="center")
        if count < volume.shape[2]:
            write(x + tile / 2, top + height + 20, f"{count} of {volume.shape[2]}", fontsize=6, ha="center")

    _scores(place(bars_at, top + (height - big) / 2, bars, big), scores, classes, truth)
    write(bars_at, top + (height - big) / 2 - 24, "top scores", color=INK, fontsize=8)
    _color_key(place(columns_at + 75, total - 38, 180, 10))
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
        TypeError: weight is no array.
        ValueError: weight has another rank.
    """
    if not hasattr(weight, "shape"):
        raise TypeError(f"filters are an array, as net['conv1.weight'], received {type(weight).__name__}")
    weight = np.asarray(weight, np.float32)
    if weight.ndim != 4:
        raise ValueError(f"filters are (K, R, S, C), received shape {weight.shape}")
    bound = _scale(weight)
    colored = weight.shape[3] == 3
    tiles = weight / (2 * bound) + 0.5 if colored else _colors(np.moveaxis(weight, 3, 1), bound)
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
    figure = _figure(width, height)
    heading = {"color": INK, "fontsize": 10, "weight": "bold", "va": "center"}
    _text(figure, 50 / width, 1 - 42 / height, title or "filters", max_width=width - 100, **heading)
    size = TIMES.join(map(str, weight.shape[1:]))
    note = f"{weight.shape[0]} filters of {size}, largest weight {np.abs(weight).max(initial=0):.2g}"
    figure.text(50 / width, 1 - 76 / height, note, color=MUTED, fontsize=7, va="center")
    axes = figure.add_axes((50 / width, 50 / height, sheet.shape[1] / width, sheet.shape[0] / height))
    _show(axes, sheet, label="filters")
    return figure


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
    figure = _figure(width, total)
    _heading(figure, title or "errors by their bounds", width, total)
    axes = figure.add_axes((left / width, 90 / total, (width - left - 70) / width, height * len(rows) / total))
    _style(axes, "error / bound")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.axvline(1, color=WARM, lw=1.2, ls="--")
    for at, (name, row) in enumerate(rows.items()):
        style = {"color": INK, "fontsize": 6.5, "ha": "right", "va": "center", "transform": _beside(axes)}
        _text(axes, -0.02, at, name, max_width=left - 40, **style)
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
    _text(axes, 1, -0.75, "the bound", color=WARM, fontsize=7, ha="center")
    if len(series) > 1:
        for number, each in enumerate(series):
            words, color = f"{'●■'[number % 2]} {each}", (COLD, GOOD)[number % 2]
            figure.text((left + 60 * number) / width, 25 / total, words, color=color, fontsize=7)
    return figure


def _expect_rows(rows: object) -> None:
    wrong = [each for each in (rows.values() if isinstance(rows, Mapping) else [rows]) if not isinstance(each, Mapping)]
    if wrong:
        raise TypeError(
            f"rows must be a dictionary of dictionaries, received {type(wrong[0]).__name__} in place of one"
        )


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
    found = np.full((len(rows), across), np.nan)
    for at, row in enumerate(rows.values()):
        for step, share in row.items():
            found[at, column[step]] = np.fmax(found[at, column[step]], share)
    colors = np.where(np.isnan(found)[..., None], 0, _share_colors(np.nan_to_num(found, posinf=np.inf)))
    pixels = np.dstack([colors, ~np.isnan(found)]).astype(np.float32)
    left, top, height, width = 250, 90, 15, 1300
    total = top + height * len(rows) + 120
    figure = _figure(width, total)
    _heading(figure, title or "two runs, step by step", width, total)
    axes = figure.add_axes((left / width, 120 / total, (width - left - 190) / width, height * len(rows) / total))
    _style(axes, "step")
    axes.grid(visible=False)
    axes.imshow(pixels, interpolation="nearest", aspect="auto", extent=(-0.5, len(steps) - 0.5, len(rows) - 0.5, -0.5))
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 12)).astype(int))
    axes.set_xticks(shown, [str(steps[at]) for at in shown])
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    groups: dict[str, list[int]] = {}
    for at, (group, name) in enumerate(rows):
        groups.setdefault(group, []).append(at)
        _text(axes, -0.01, at, name, color=MUTED, fontsize=4.5, ha="right", va="center", transform=_beside(axes))
    for group, inside in groups.items():
        _text(axes, 1.01, float(np.mean(inside)), group, color=INK, fontsize=7, va="center", transform=_beside(axes))
        axes.axhline(inside[-1] + 0.5, color=PAPER, lw=1.5)
    if first:
        axes.plot([steps.index(first[0])], [[*rows].index(first[1])], color=INK, marker="o", ms=9, mfc="none", mew=1.6)
    key = figure.add_axes((left / width, 28 / total, 300 / width, 12 / total))
    _show(key, _share_colors(np.logspace(-DECADES, DECADES, 181)[None]), label="key")
    for x, words, place in (
        (0, f"1e-{DECADES}", "left"),
        (150, "what rounding explains", "center"),
        (300, f"1e{DECADES}", "right"),
    ):
        figure.text((left + x) / width, 50 / total, words, color=MUTED, fontsize=6, ha=place)
    figure.text((left + 330) / width, 30 / total, "dark: the same bits", color=MUTED, fontsize=6)
    return figure


def draw(path: str | os.PathLike[str], make: Callable[[], Figure]) -> None:
    """Save the figure that `make` returns at `path`. Any error becomes a PlotError, which the caller can catch, so that
    a picture never stops a run.

    The causes are often outside gpuconv: a matplotlibrc, MPLBACKEND, fonts, a full disk.
    """
    try:
        path = target(path)
        save(make(), path)
    except PlotError:
        raise
    except Exception as error:
        raise PlotError(_one_line(error)) from error


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a `figure` as the PNG file `path`, atomically. Returns the path.

    Raises as `target` does, and OSError, naming the path, if it cannot be written.
    """
    path = target(path)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    return path


def target(path: str | os.PathLike[str]) -> Path:
    """`path`, if a picture can be saved there.

    Raises PlotError for a name that does not end in .png, and OSError if its folder does not exist or the name is taken
    by something other than a file.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise PlotError(f"a picture is a PNG file, its name must end in .png, received {path}")
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, "the folder to put it in does not exist", str(path))
    if path.exists() and not path.is_file():  # a rename would replace a device or a pipe
        raise OSError(errno.EINVAL, "exists and is not a regular file", str(path))
    return path


# --- parts -------------------------------------------------------------------------------------


def _text(place: Axes | Figure, x: float, y: float, words: str, *, max_width: float = np.inf, **style: Any) -> None:
    """Write `words` literally, without formulas, and with "?" for characters that the font lacks.

    place: a figure or axes. max_width: in pixels; longer text ends in an ellipsis.
    """
    from matplotlib.font_manager import findfont, get_font

    text = place.text(x, y, "", parse_math=False, **style)
    font = get_font(findfont(text.get_fontproperties()))
    shown = (letter.isprintable() and font.get_char_index(ord(letter)) for letter in words)
    words = "".join(letter if has else "?" for letter, has in zip(words, shown))

    def width(written: str) -> float:
        text.set_text(written)
        return text.get_window_extent().width

    def cut(length: int) -> str:
        return words[:length].rstrip() + "…"

    text.set_text(words)
    if max_width < np.inf and width(words) > max_width:
        longer = bisect_right(range(len(words)), max_width, key=lambda length: width(cut(length)))
        text.set_text(cut(max(0, longer - 1)))


def _figure(width: int, height: int) -> Figure:
    """An empty figure of this size in pixels."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise NoMatplotlibError("pictures need matplotlib: python -m pip install 'gpuconv[plot]'") from error
    except Exception as error:  # importing it reads MPLBACKEND and matplotlibrc
        raise NoMatplotlibError(f"matplotlib cannot be imported: {_one_line(error)}") from error
    figure = Canvas(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    """A notebook's representation of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    return file.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """A `figure` as an image, uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _heading(figure: Figure, words: str, width: int, height: int) -> None:
    """A title in the upper left corner of a figure of this size in pixels."""
    style = {"color": INK, "fontsize": 11, "weight": "bold", "va": "center"}
    _text(figure, 50 / width, 1 - 45 / height, words, max_width=width - 100, **style)


def _beside(axes: Axes) -> Any:
    """The transform for text beside a row: x as a share of the axes' width, y in data coordinates."""
    return axes.get_yaxis_transform()


def _style_curves(axes: Axes, epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    _style(axes, "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.set_xlim(min(epochs) - 0.5 * (len(set(epochs)) == 1), max(epochs) + 0.5 * (len(set(epochs)) == 1))


def _style(axes: Axes, across: str) -> None:
    """Style axes with lines. across: the label of the horizontal axis."""
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, labelsize=7, length=0, pad=6)
    axes.set_xlabel(across, color=MUTED, fontsize=8)


def _label_ends(axes: Axes, ends: list[list[Any]]) -> None:
    """Write the name and last value of each line at its right end, separated where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ends.sort()
    for lower, upper in pairwise(ends):
        upper[0] = max(upper[0], lower[0] + gap)
    for y, text, color in ends:
        axes.text(1.02, (y - low) / (high - low), text, color=color, fontsize=8, va="center", transform=axes.transAxes)


def _show(axes: Axes, pixels: np.ndarray, label: str) -> None:
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    axes.set_label(label)


def _as_volume(volume: np.ndarray) -> np.ndarray:
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


def _scale(values: np.ndarray) -> float:
    """The magnitude that is drawn in full color: slightly below the largest, so that one outlier does not darken the
    rest."""
    magnitudes = np.abs(values[np.isfinite(values)])
    return float(np.quantile(magnitudes, 0.995)) or 1.0 if magnitudes.size else 1.0


def _colors(values: np.ndarray, bound: float) -> np.ndarray:
    """Signed values as RGB: -bound is light blue, 0 the dark ground, +bound light amber; not a number is magenta."""
    stops = np.array(
        [
            [0.85, 0.96, 1],
            [0.26, 0.66, 0.92],
            [0.1, 0.28, 0.45],
            [0.085, 0.1, 0.135],
            [0.5, 0.28, 0.08],
            [1, 0.66, 0.26],
            [1, 0.95, 0.8],
        ]
    )
    at = np.linspace(-1, 1, len(stops))
    unit = np.clip(values / bound, -1, 1)
    colors = np.stack([np.interp(unit, at, stops[:, channel]) for channel in range(3)], axis=-1)
    colors[np.isnan(values)] = (1, 0, 1)
    return colors.astype(np.float32)


def _share_colors(shares: np.ndarray) -> np.ndarray:
    """Shares of a bound as RGB: dark at 0, blue up to the bound, amber above it, lighter with each order of
    magnitude."""
    with np.errstate(divide="ignore"):
        orders = np.clip(np.log10(shares) / DECADES, -1, 1)
    signed = np.where(shares > 1, 0.3 + 0.7 * orders, np.where(shares > 0, -0.3 - 0.7 * (1 + orders), 0))
    return _colors(signed, 1.0)


def _enlarge(pixels: np.ndarray, side: int) -> np.ndarray:
    """Nearest-neighbor scaling of (H, W, ...) so that the longer edge is `side`."""
    h, w = pixels.shape[:2]
    tall, wide = max(1, round(side * h / max(h, w))), max(1, round(side * w / max(h, w)))
    return pixels[np.arange(tall) * h // tall][:, np.arange(wide) * w // wide]


def _mosaic(volume: np.ndarray, tile: int, gap: int, bound: float) -> np.ndarray:
    """The slices of a volume, one below the other, as one RGBA image with transparent gaps."""
    sheet = np.zeros((volume.shape[2] * (tile + gap) - gap, tile, 4), np.float32)
    for number in range(volume.shape[2]):
        drawn = _enlarge(_colors(volume[:, :, number], bound), tile)
        y, x = number * (tile + gap) + (tile - drawn.shape[0]) // 2, (tile - drawn.shape[1]) // 2
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], :3] = drawn
        sheet[y : y + drawn.shape[0], x : x + drawn.shape[1], 3] = 1
    return sheet


def _scores(axes: Axes, scores: np.ndarray, classes: Sequence[str], truth: int | None) -> None:
    """The five best scores as bars, best first; the right class is green."""
    best = np.argsort(-scores, kind="stable")[:5]
    for row, index in enumerate(best):
        known = truth is not None
        color = GOOD if known and index == truth else WARM if row == 0 else MUTED
        axes.barh(row, 1, color=FAINT, height=0.26)
        axes.barh(row, scores[index], color=color, height=0.26)
        most = 0.76 * axes.get_window_extent().width  # the rest of the line is for the percentage
        _text(axes, 0, row - 0.34, classes[index], max_width=most, color=INK, fontsize=9, va="center")
        axes.text(1, row - 0.34, f"{100 * scores[index]:.1f} %", color=color, fontsize=9, va="center", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(4.2, -0.6)
    axes.set_axis_off()
    axes.set_label("scores")


def _color_key(axes: Axes) -> None:
    _show(axes, _colors(np.linspace(-1, 1, 181)[None], 1.0), label="key")
