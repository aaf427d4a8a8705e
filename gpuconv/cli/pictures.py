"""The pictures of a net: the activations of one image, and the filters of the first layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends, plots
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.system.files import same_file
from gpuconv.training.image_activations import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpuconv.data import Normalization
    from gpuconv.layers.sequential import Sequential


def expect_target(path: str | None, images: Sequence[str] = ()) -> None:
    """Raises UserError for a `--picture` that cannot be written or would replace one of the `images` that the command
    reads, before anything is done."""
    with user_errors():
        try:
            if path:
                plots.target(path)
        except plots.PlotError as error:
            raise UserError(str(error)) from error
    if path and any(same_file(path, image) for image in images):
        raise UserError(f"--picture {path} would replace an image that is read; give the picture another name")


def draw(path: str | None, make: Callable[[], Figure]) -> None:
    """Draw the figure that `make` returns into the file that `--picture` names, if any, and print the file's name."""
    if path:
        with user_errors():
            try:
                plots.draw(path, make)
            except plots.PlotError as error:
                raise UserError(str(error)) from error
        print_line("picture", path)


def draw_activations(
    path: str | os.PathLike[str],
    net: Sequential,
    image: np.ndarray,
    normalization: Normalization,
    classes: Sequence[str],
    *,
    truth: int | None = None,
    title: str,
) -> None:
    """Draw the activations of an image, uint8 (H, W, C) of the net's size."""

    plots.draw(path, lambda: picture(net, image, normalization, classes, truth=truth, title=title))


def first_filters(net: Sequential) -> tuple[str, np.ndarray] | None:
    """The name and the weights (K, R, S, C) of the layer that reads the image; None if it has no such weights.

    A fully-connected layer is shown as the equivalent convolution, with filters as large as the image.
    """
    for name, value in net.named_parameters():
        weight = backends.to_numpy(value).astype(np.float32)
        if weight.ndim == 4:
            return name.removesuffix(".weight"), weight
        if weight.ndim == 2 and weight.shape[1] == np.prod(net.input_shape or ()):
            return name.removesuffix(".weight"), weight.reshape(-1, *(net.input_shape or ()))
        if weight.ndim > 1:
            break
    return None


def draw_filters(path: str | os.PathLike[str], net: Sequential) -> None:
    found = first_filters(net)
    if found:
        name, weight = found
        plots.draw(path, lambda: plots.filters(weight, title=f"what {name} looks for"))
