"""Activations and gradients of one image, and filters, as small signed bytes for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from gpuconv import backends, losses
from gpuconv.integers import ceil_div
from gpuconv.layers import Dropout, Flatten, Input
from gpuconv.layers.base import Layer
from gpuconv.layers.sequential import Sequential
from gpuconv.layers.state import named_layers
from gpuconv.losses import Loss
from gpuconv.plots.colors import scale_of
from gpuconv.types import Array, Record

DISPLAYS = ("activations", "gradients", "filters")
SLICES = 10  # at most this many slices of a layer are shown
SIDE = 64  # pixels along the longer side of a slice of a volume, at most


class Volume(NamedTuple):
    """What is shown of a layer's volume. shape: the shape of the whole volume. slices: the shown part, (n, h, w)
    floats. step: the distance between displayed pixels."""

    layer: str
    shape: tuple[int, ...]
    slices: np.ndarray
    step: int


def layers_of(net: Layer) -> dict[str, Layer]:
    """The layers of a net by the names that `gpuconv explain` takes, inner layers before the layer that contains them.

    Sequentials are left out, because their output is their last layer's."""
    found: dict[str, Layer] = {}
    for name, layer in named_layers(net).items():
        found |= {f"{name}.{inner}": each for inner, each in layers_of(layer).items()}
        if not isinstance(layer, Sequential):
            found[name] = layer
    return found


def activations(net: Sequential, x: Array) -> tuple[list[Volume], np.ndarray]:
    """The volume after each displayed layer for a batch of one image, and the scores."""
    names, volumes = _shown(net), list[Volume]()
    with ExitStack() as hooked:
        for each in names:
            hook = each.register_forward_hook(lambda layer, given, y: volumes.append(_volume(names[layer], y)))
            hooked.enter_context(hook)
        scores = net.infer(x)
    return volumes, _host(scores)


def gradients(net: Sequential, x: Array, label: int, loss: Loss) -> list[Volume]:
    """The gradient of the loss with respect to the volume after each displayed layer. The parameters' gradients are
    reset afterwards."""
    names, volumes = _shown(net), list[Volume]()
    _, dscores = losses.apply(loss, net.forward(x), backends.asarray(np.array([label]), net.device))
    with ExitStack() as hooked:
        for each in names:
            hook = each.register_backward_hook(lambda layer, dx, dy: volumes.append(_volume(names[layer], dy)))
            hooked.enter_context(hook)
        net.backward(dscores)
    net.zero_grad()
    return volumes


def filters(net: Layer) -> list[Volume]:
    """The first filters of each layer that has any, at most SLICES of them; up to four channels of a filter are placed
    in a square. The filters of a linear layer after a Flatten get the shape of the Flatten's input."""
    found: list[Volume] = []
    before: Layer = net
    for name, layer in layers_of(net).items():
        after_flatten = isinstance(before, Flatten) and before.output_shape == layer.input_shape
        shape = (before if after_flatten else layer).input_shape or ()
        before = layer
        weight = layer.arrays.get("weight") if layer.variables.get("weight") else None
        if weight is None or len(weight.shape) not in (2, 4):
            continue
        slices = _host(weight[:SLICES])
        if slices.ndim == 2:
            flattened = len(shape) == 3 and math.prod(shape) == slices.shape[1]
            slices = slices.reshape(len(slices), *shape) if flattened else slices[:, None, None, :]
        found.append(Volume(name, tuple(weight.shape), _square(slices), 1))
    return found


def pack(head: Record, volumes: Iterable[Volume], images: Iterable[np.ndarray] = ()) -> bytes:
    """A JSON header, preceded by its length in four bytes, then the bytes of each slice, in [-127, 127], and of each
    image. The slices of a layer share one scale (`scale_of`); values beyond it are clipped."""
    layers, data = [], []
    for volume in volumes:
        scale = scale_of(volume.slices)
        signed = np.clip(np.nan_to_num(volume.slices) / scale, -1, 1)
        data.append(np.rint(signed * 127).astype(np.int8).tobytes())
        entry = {"layer": volume.layer, "shape": volume.shape, "size": volume.slices.shape, "scale": scale}
        layers.append(entry | {"step": volume.step})
    shapes = []
    for image in images:
        shapes.append(image.shape)
        data.append(np.ascontiguousarray(image).tobytes())
    header = json.dumps(head | {"layers": layers, "images": shapes}, allow_nan=False).encode()
    return b"".join([len(header).to_bytes(4, "little"), header, *data])


def shrink_image(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) with sides of at most SIDE pixels."""
    step = _step(image.shape)
    return image[::step, ::step]


def plane(name: str, values: np.ndarray) -> Volume:
    """Values (H, W) as a volume of one slice."""
    step = _step(values.shape)
    return Volume(name, values.shape, values[None, ::step, ::step], step)


def best_classes(probabilities: np.ndarray) -> list[list[float | str]]:
    """The five best classes, best first: [class, probability]."""
    order = np.argsort(-probabilities, kind="stable")[:5]
    return [[int(index), number(probabilities[index])] for index in order]


def number(value: float) -> float | str:
    """The number for JSON, which lacks NaN and infinities: they become text, "nan", "inf" or "-inf"."""
    return float(value) if math.isfinite(value) else str(float(value))


def _square(filters: np.ndarray) -> np.ndarray:
    """The first channels of filters (K, R, S, C) as (K, h, w): one channel alone, two side by side, or four in two
    rows."""
    parts = [np.pad(filters[..., c], ((0, 0), (0, 1), (0, 1))) for c in range(min(4, filters.shape[3]))]
    if len(parts) == 3:
        parts.append(np.zeros_like(parts[0]))
    rows = [np.concatenate(parts[at : at + 2], axis=2) for at in range(0, len(parts), 2)]
    return np.concatenate(rows, axis=1)[:, :-1, :-1]


def _shown(net: Layer) -> dict[Layer, str]:
    """The displayed layers with their names."""
    return {layer: name for name, layer in layers_of(net).items() if not isinstance(layer, Input | Flatten | Dropout)}


def _volume(name: str, y: Array) -> Volume:
    """The first slices of a layer's output for the first image, subsampled if they are large."""
    one = y[0]
    shape = tuple(one.shape)
    step = _step(shape) if len(shape) == 3 else 1
    if len(shape) == 3:
        slices = _host(one[::step, ::step, :SLICES]).transpose(2, 0, 1)
    else:
        slices = _host(one[:SLICES] if shape else one).reshape(-1, 1, 1)[:SLICES]
    return Volume(name, shape, slices, step)


def _step(shape: tuple[int, ...]) -> int:
    return ceil_div(max(shape[:2]), SIDE)


def _host(array: object) -> np.ndarray:
    return backends.to_numpy(array).astype(np.float32)
