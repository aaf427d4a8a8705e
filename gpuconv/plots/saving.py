"""Pictures as PNG files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.plots.canvas import DPI, PlotError, cause, expect_figure
from gpuconv.system import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(path: str | os.PathLike[str], make: Callable[[], Figure]) -> None:
    """Save at `path` the figure that `make` returns. Any error becomes a PlotError, which the caller can catch, so that
    a picture never stops a run.

    The causes are often outside gpuconv: a matplotlibrc, MPLBACKEND, fonts, a full disk.
    """
    try:
        path = target(path)
        save(make(), path)
    except PlotError:
        raise
    except Exception as error:
        raise PlotError(cause(error)) from error


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a `figure` as the PNG file `path`, atomically. Returns the path.

    Raises as `target` does, TypeError for anything but a figure, and OSError, naming the path, if it cannot be written.
    """
    expect_figure(figure)
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
        raise PlotError(f"a picture is a PNG file, so its name must end in .png, received {path}")
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, "the folder to put it in does not exist", str(path))
    if path.exists() and not path.is_file():  # a rename would replace a device or a pipe
        raise OSError(errno.EINVAL, "exists and is not a regular file", str(path))
    return path
