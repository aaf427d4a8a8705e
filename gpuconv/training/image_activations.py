"""The activations of one image in a net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends, ops, plots
from gpuconv.data import Normalization
from gpuconv.layers import Dropout, Flatten, Input
from gpuconv.layers.base import Layer
from gpuconv.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def activations_of(net: Layer, x: Array) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """(name and output of each layer, class probabilities) for a batch of one image.

    Layers that leave the values unchanged in inference (input, flatten, dropout) are left out.
    """
    volumes = []
    for name, layer in net.children():
        x = layer.infer(x)
        if not isinstance(layer, Input | Flatten | Dropout):
            volumes.append((name, backends.to_numpy(x)[0].astype(np.float32)))
    return volumes, backends.to_numpy(ops.softmax(x))[0].astype(np.float64)


def picture(
    net: Layer,
    image: np.ndarray,
    normalization: Normalization,
    classes: Sequence[str],
    *,
    truth: int | None = None,
    title: str = "",
) -> Figure:
    """The figure of `gpuconv.plots.activations` for one uint8 image (H, W, C) of the net's size."""
    volumes, probabilities = activations_of(net, backends.asarray(normalization(image[None]), net.device, net.dtype))
    return plots.activations(image, volumes, probabilities, classes, truth=truth, title=title)
