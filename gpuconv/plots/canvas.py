"""The dark figures that all pictures are drawn on: sizes in pixels, text, axes."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.system.files import describe_error
from gpuconv.text.plain_text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

DPI = 150
TIMES = "\N{MULTIPLICATION SIGN}"
INK, MUTED, FAINT, PAPER = "#e8e6e3", "#8d93a5", "#2a2f3d", "#11141b"
WARM, COLD, GOOD = "#ffb454", "#59c2ff", "#7fd962"


class PlotError(RuntimeError):
    """A picture cannot be drawn; the message says why in one line."""


class NoMatplotlibError(PlotError):
    """No picture can be drawn: matplotlib is not installed or cannot be imported."""


def new_figure(width: int, height: int) -> Figure:
    """An empty figure of this size in pixels."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise NoMatplotlibError("pictures need matplotlib: python -m pip install 'gpuconv[plot]'") from error
    except Exception as error:  # importing it reads MPLBACKEND and matplotlibrc
        raise NoMatplotlibError(f"matplotlib cannot be imported: {cause(error)}") from error
    figure = Canvas(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    """A notebook's representation of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    return file.getvalue()


def expect_figure(figure: object) -> None:
    if not hasattr(figure, "savefig"):
        raise TypeError(f"figure must be matplotlib's, received {type(figure).__name__}")


def is_number(value: Any) -> bool:  # noqa: ANN401 - any object
    """Whether a value can be drawn as one number; an array of shape () can."""
    return hasattr(value, "__float__") and np.ndim(value) == 0


def pixels(figure: Figure) -> np.ndarray:
    """A `figure` as an image, uint8 (H, W, 3). Raises TypeError for anything but a figure."""
    expect_figure(figure)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    own = figure.canvas
    try:
        canvas = FigureCanvasAgg(figure)  # becomes the figure's canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        figure.set_canvas(own)  # that of a figure of pyplot belongs to a window


def cause(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return describe_error(error)
    return f"{type(error).__name__}: {one_line(error)}"


def draw_text(
    parent: Axes | Figure, x: float, y: float, words: object, *, max_width: float = np.inf, **style: Any
) -> None:
    """Write `words` literally, without formulas, and with "?" for characters that the font lacks. Anything but text is
    written as `str` gives it.

    parent: a figure or axes. max_width: in pixels; longer text ends in an ellipsis.
    """
    from matplotlib.font_manager import findfont, get_font

    text = parent.text(x, y, "", parse_math=False, **style)
    font = get_font(findfont(text.get_fontproperties()))
    shown = ((letter, letter.isprintable() and font.get_char_index(ord(letter))) for letter in str(words))
    drawn = "".join(letter if has else "?" for letter, has in shown)

    def width(written: str) -> float:
        text.set_text(written)
        return text.get_window_extent(_measuring_renderer()).width

    def cut(length: int) -> str:
        return drawn[:length].rstrip() + "…"

    text.set_text(drawn)
    if max_width < np.inf and width(drawn) > max_width:
        longer = bisect_right(range(len(drawn)), max_width, key=lambda length: width(cut(length)))
        text.set_text(cut(max(0, longer - 1)))


@cache
def _measuring_renderer() -> RendererAgg:
    """A renderer of one pixel for all measurements of text. Without it, matplotlib makes one of the figure's size for
    each text, tens of megabytes each."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


def heading(figure: Figure, words: str, width: int, height: int) -> None:
    """A title in the upper left corner of a figure of this size in pixels."""
    style = {"color": INK, "fontsize": 11, "weight": "bold", "va": "center"}
    draw_text(figure, 50 / width, 1 - 45 / height, words, max_width=width - 100, **style)


def row_transform(axes: Axes) -> Transform:
    """The transform for text beside a row: x as a share of the axes' width, y in data coordinates."""
    return axes.get_yaxis_transform()


def style_axes(axes: Axes, across: str) -> None:
    """Style the axes of a line plot. across: the label of the horizontal axis."""
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, labelsize=7, length=0, pad=6)
    axes.set_xlabel(across, color=MUTED, fontsize=8)


def show(axes: Axes, pixels: np.ndarray, label: str) -> None:
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    axes.set_label(label)


def enlarge(pixels: np.ndarray, side: int) -> np.ndarray:
    """Nearest-neighbor scaling of (H, W, ...) so that the longer edge is `side`."""
    h, w = pixels.shape[:2]
    tall, wide = (max(1, round(side * length / max(h, w))) for length in (h, w))
    return pixels[np.arange(tall) * h // tall][:, np.arange(wide) * w // wide]
