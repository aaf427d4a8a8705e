"""`Sequential.predict`: the scores of whatever images a user has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import arguments, backends, ops
from gpuconv.data.image import read_image
from gpuconv.dtypes import is_float

Array = Any


def predict(net: Any, images: Any, *, batch_size: int, softmax: bool, top: int | None, normalize: bool | None) -> Any:
    """See `Sequential.predict`."""
    batch_size = arguments.integer("batch_size", batch_size, 1)
    if net.output_shape is None:
        raise RuntimeError("the net has no shapes yet: begin it with Input(...) or call build(input_shape)")
    if top is not None:
        arguments.integer("top", top, 1)
    batch, single = as_batch(net, images)
    normalize = _normalizes(net, batch, normalize)
    scores = _scores(net, batch, batch_size, softmax or top is not None, normalize)
    if top is None:
        return scores[0] if single else scores
    best = [_best(row, top, net.classes) for row in backends.to_numpy(scores).reshape(len(batch), -1)]
    return best[0] if single else best


def as_batch(net: Any, images: Any) -> tuple[Array, bool]:
    """The images as one array (N, H, W, C) of floats or uint8, and whether it was a single image."""
    shape = net.input_shape
    if isinstance(images, (str, os.PathLike)):
        return _files(net, [images]), True
    if isinstance(images, (list, tuple)):
        if not images:
            return np.empty((0, *shape), np.uint8), False
        if all(isinstance(image, (str, os.PathLike)) for image in images):
            return _files(net, images), False
        images = np.stack([backends.to_numpy(_array(image), "an image") for image in images])
    array = _array(images)
    if array.dtype != np.uint8 and not is_float(array.dtype):
        raise TypeError(f"images must be uint8 or floats, received {array.dtype.name}")
    grey = shape[-1:] == (1,) and tuple(array.shape[-2:]) == shape[:2] != tuple(array.shape[-3:-1])
    if grey:
        array = array.reshape(*array.shape, 1)
    single = len(array.shape) == len(shape)
    return (array.reshape(1, *array.shape) if single else array), single


def _array(images: Any) -> Array:
    try:
        backends.device_of(images)
        return images
    except TypeError:
        if hasattr(images, "__array__") or hasattr(images, "__array_interface__"):  # Pillow's images, tensors
            return np.asarray(images)
    raise TypeError(
        "images must be an array of floats or uint8, a file, or a list of files or arrays, "
        f"received {type(images).__name__}"
    )


def _files(net: Any, paths: Sequence[Any]) -> np.ndarray:
    height, width, channels = net.input_shape
    return np.stack([read_image(path, size=(height, width), channels=channels) for path in paths])


def _normalizes(net: Any, batch: Array, asked: bool | None) -> bool:
    """Whether the stored normalization is applied. Raises ValueError where that must be said."""
    if asked or (asked is None and batch.dtype == np.uint8):
        if net.normalization is None:
            raise ValueError(
                "how to normalise these images is not known: the net was not trained on uint8 images; set "
                "net.normalization = gpuconv.data.Normalization(mean, std), or give floats as it was trained on"
            )
        return True
    if asked is False or net.normalization is None or not batch.size:
        return False
    pixels = backends.to_numpy(batch)
    if pixels.min() >= 0 and (pixels.max() > 10 or pixels.max() <= 1):
        raise ValueError(
            f"these floats, from {pixels.min():g} to {pixels.max():g}, do not look normalised, and the net was trained "
            "on normalised ones: give uint8, which is normalised as in training; or say normalize=True for floats in "
            "the units of those uint8 images, normalize=False for floats that are as the net takes them"
        )
    return False


def _scores(net: Any, images: Array, batch_size: int, softmax: bool, normalize: bool) -> Array:
    count, scores = images.shape[0], None
    there = backends.device_of(images)
    for first in range(0, max(count, 1), batch_size):
        x = images[first : first + batch_size]
        if normalize:
            x = _normalised(net, backends.to_numpy(x))
        if normalize or x.dtype != net.dtype or there != net.device:
            x = backends.asarray(x, net.device, net.dtype)
        y = net.infer(x)
        if softmax:
            y = ops.softmax(y.reshape(-1, y.shape[-1])).reshape(y.shape)
        if there == "numpy":
            y = backends.to_numpy(y)
        if count <= batch_size:
            return y
        if scores is None:
            scores = backends.empty((count, *y.shape[1:]), y.dtype, backends.device_of(y))
        scores[first : first + batch_size] = y
    return scores


def _normalised(net: Any, x: np.ndarray) -> np.ndarray:
    found = net.normalization
    if x.dtype == np.uint8:
        return found(x)
    return (x.astype(np.float32) - found.mean) * (1 / found.std)


def _best(scores: np.ndarray, top: int, classes: Sequence[str] | None) -> list[tuple[str, float]]:
    order = np.argsort(-scores.astype(np.float32), kind="stable")[:top]
    return [(str(place) if classes is None else classes[place], float(scores[place])) for place in order]
