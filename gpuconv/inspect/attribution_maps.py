"""Which parts of an image a class's score depends on: saliency, occlusion and Grad-CAM."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv import arguments, backends
from gpuconv.inspect.explain import chosen_score, expect_one_image, layer_of, net_with_shapes_for
from gpuconv.inspect.terms import as_float64, expect_not_fused
from gpuconv.layers.fused import Fused
from gpuconv.layers.sequential import Sequential
from gpuconv.names import canonical
from gpuconv.types import Array

MAPS = ("saliency", "occlusion", "grad-cam")
BATCH = 64  # occluded images per forward pass


def saliency(net: Sequential, x: Array, *, target: int | None = None) -> np.ndarray:
    """The gradient of a class's score with respect to the image, (H, W, C) in float64 (Simonyan et al. 2013).

    Args:
        net: Built.
        x: (1, H, W, C) as the net takes it, on its device.
        target: The class, by default the best.

    Raises:
        TypeError: `net` is not a net, or x not an array.
        RuntimeError: The net has no shapes yet.
        ValueError: An unknown class, or x is not a batch of one image that the net takes.
    """
    _expect_one_map(net, x)
    twin = net.twin()  # gradients accumulate in the copy
    scores = twin.forward(x)
    return as_float64(twin.backward(_gradient(net, scores, target)))[0]


def occlusion(
    net: Sequential, x: Array, *, target: int | None = None, size: int | None = None, stride: int | None = None
) -> np.ndarray:
    """How far a class's score falls when a square of the image is set to 0, which is the mean of normalized images
    (Zeiler and Fergus 2013). The map is (H, W) in float64; the value of a pixel is the mean over the squares
    that cover it.

    Args:
        size: The side of the square in pixels, from 1 to the image's shorter side; by default an eighth of that.
        stride: Pixels from one square to the next, from 1 to the square's side; by default a quarter of that.

    Other arguments as in `saliency`. Raises as `saliency` does, and ValueError for another size or stride.
    """
    *_, found = occlusion_stages(net, x, target=target, size=size, stride=stride)
    return found


def occlusion_stages(
    net: Sequential,
    x: Array,
    *,
    target: int | None = None,
    size: int | None = None,
    stride: int | None = None,
    batch: int = BATCH,
) -> Iterator[np.ndarray]:
    """The map of `occlusion`, yielded after every `batch` squares; it is 0 at pixels not yet covered.

    Each batch also evaluates the unchanged image, because the net may be trained between two batches.
    """
    _expect_one_map(net, x)
    h, w = x.shape[1:3]
    side = arguments.integer("size", max(1, min(h, w) // 8) if size is None else size, 1, min(h, w))
    step = arguments.integer("stride", max(1, side // 4) if stride is None else stride, 1, side)
    image = backends.to_numpy(x)[0]
    number = int(chosen_score(as_float64(net.infer(x)).reshape(-1), target).argmax())
    rows, columns = (sorted({*range(0, length - side + 1, step), length - side}) for length in (h, w))
    places = [(row, column) for row in rows for column in columns]
    falls, covered = np.zeros((h, w)), np.zeros((h, w))
    for first in range(0, len(places), batch):
        squares = places[first : first + batch]
        images = np.stack([image] * (1 + len(squares)))
        for each, (row, column) in zip(images[1:], squares):
            each[row : row + side, column : column + side] = 0
        scores = as_float64(net.infer(backends.asarray(images, net.device, x.dtype)))
        scores = scores.reshape(len(images), -1)[:, number]
        for score, (row, column) in zip(scores[1:], squares):
            falls[row : row + side, column : column + side] += scores[0] - score
            covered[row : row + side, column : column + side] += 1
        yield falls / np.maximum(covered, 1)


def grad_cam(net: Sequential, x: Array, *, layer: str | None = None, target: int | None = None) -> np.ndarray:
    """Where a layer's maps support a class (Selvaraju et al. 2017), (H, W) of the image in float64.

    Each map is weighted by the mean of its gradient, and the maps are summed; the result is the positive part of the
    sum. Each pixel of the image has the value of the map's position that covers it.

    Args:
        layer: The layer's name; by default the last layer whose output has more than one position.

    Other arguments as in `saliency`.

    Raises:
        TypeError, RuntimeError, ValueError: As in `saliency`; ValueError also for a layer that is unknown, has no
            positions or is a part of a fused layer, and for a net without a layer that has more than one position.
    """
    _expect_one_map(net, x)
    net = net_with_shapes_for(net, x)
    name = _last_map(net) if layer is None else layer
    chosen = layer_of(net, name)
    if not isinstance(chosen, Fused):
        expect_not_fused(net, chosen)
    if len(chosen.output_shape or ()) != 3:
        raise ValueError(f"Grad-CAM needs a layer with maps (H, W, C); the output of {name} is {chosen.output_shape}")
    twin = net.twin()
    kept: list[Array] = []
    with layer_of(twin, name).register_forward_hook(lambda each, given, y: kept.append(y)):
        scores = twin.forward(x)
    sent: list[Array] = []
    with layer_of(twin, name).register_backward_hook(lambda each, dx, dy: sent.append(dy)):
        twin.backward(_gradient(net, scores, target))
    volume, gradient = as_float64(kept[0])[0], as_float64(sent[0])[0]
    found = np.maximum((volume * gradient.mean(axis=(0, 1))).sum(axis=2), 0)
    rows, columns = (np.arange(length) * count // length for length, count in zip(x.shape[1:3], found.shape))
    return found[rows][:, columns]


def map_stages(kind: str, net: Sequential, x: Array, *, target: int, batch: int) -> Iterator[np.ndarray]:
    """The map in stages: an occlusion map after each `batch` squares, other maps at once."""
    kind = canonical("map", kind, MAPS)
    if kind == "occlusion":
        yield from occlusion_stages(net, x, target=target, batch=batch)
    else:
        yield {"saliency": saliency, "grad-cam": grad_cam}[kind](net, x, target=target)


def _gradient(net: Sequential, scores: Array, target: int | None) -> Array:
    return backends.asarray(chosen_score(scores, target), net.device, scores.dtype)


def _expect_one_map(net: object, x: Array) -> None:
    expect_one_image(net, x)
    if len(x.shape) != 4:
        raise ValueError(f"x must be a batch of one image, (1, H, W, C), received shape {tuple(x.shape)}")


def _last_map(net: Sequential) -> str:
    shapes: dict[str, tuple[int, ...]] = {name: layer.output_shape or () for name, layer in net.children()}
    found = [name for name, shape in shapes.items() if len(shape) == 3 and shape[0] * shape[1] > 1]
    if not found:
        raise ValueError("no layer of the net has maps of more than one position, which Grad-CAM needs")
    return found[-1]
