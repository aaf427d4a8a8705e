"""The pictures of a net: one image on its way through it, and what its first layer looks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv import backends, ops, plots


def look(net: Any, x: Any) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """The volume after each layer for a batch of one image, and the probabilities of the classes.

    Layers that only pass their input on when a net is used (input, flatten, dropout) have no volume of their own.
    """
    from gpuconv.layers import Dropout, Flatten, Input

    volumes = []
    for name, layer in net.children():
        x = layer.infer(x)
        if not isinstance(layer, Input | Flatten | Dropout):
            volumes.append((name, backends.to_numpy(x)[0].astype(np.float32)))
    return volumes, backends.to_numpy(ops.softmax(x))[0].astype(np.float64)


def draw_activations(
    path: Any, net: Any, image: np.ndarray, normalization: Any, classes: Any, *, truth: int | None = None, title: str
) -> None:
    """image: uint8 (H, W, C), as the net takes it."""

    def make() -> Any:
        volumes, scores = look(net, backends.asarray(normalization(image[None]), net.device, net.dtype))
        return plots.activations(image, volumes, scores, classes, truth=truth, title=title)

    plots.draw(path, make)


def first_filters(net: Any) -> tuple[str, np.ndarray] | None:
    """The name and the weights (K, R, S, C) of the layer that reads the image; None if it has no such weights.

    A fully-connected layer is shown as the convolution that it equals: its filters are as large as the image.
    """
    for name, value in net.params().items():
        weight = backends.to_numpy(value).astype(np.float32)
        if weight.ndim == 4:
            return name.removesuffix(".weight"), weight
        if weight.ndim == 2 and weight.shape[1] == np.prod(net.input_shape):
            return name.removesuffix(".weight"), weight.reshape(-1, *net.input_shape)
        if weight.ndim > 1:
            break
    return None


def draw_filters(path: Any, net: Any) -> None:
    found = first_filters(net)
    if found:
        name, weight = found
        plots.draw(path, lambda: plots.filters(weight, title=f"what {name} looks for"))
