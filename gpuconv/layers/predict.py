"""`Sequential.predict`: scores of arrays, files or lists of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np

from gpuconv import arguments, backends, ops
from gpuconv.arguments import is_torch
from gpuconv.devices import Device, is_on, kind_of
from gpuconv.dtypes import is_float
from gpuconv.images.image_file import read_image
from gpuconv.images.layout import lacks_channels, laid_out
from gpuconv.images.normalization import looks_unnormalized
from gpuconv.layers.base import Layer, expect_built
from gpuconv.layers.image_notes import expect_class_names
from gpuconv.types import Array, Shape


def predict(
    net: Layer,
    classes: Sequence[str] | None,
    images: object,
    *,
    batch_size: int,
    softmax: bool,
    top: int | None,
    normalize: bool | None,
) -> object:
    """See `Sequential.predict`."""
    batch_size = arguments.integer("batch_size", batch_size, 1)
    softmax = arguments.flag("softmax", softmax)
    if top is not None:
        arguments.integer("top", top, 1)
        if classes is not None:
            expect_class_names(classes, net.output_shape)
    batch, single = as_batch(net, images)
    normalize = _normalizes(net, batch, normalize)
    scores = _scores(net, batch, batch_size, softmax or top is not None, normalize)
    if top is None:
        return scores[0] if single else scores
    volume = tuple(scores.shape[1:])
    if math.prod(volume[:-1]) != 1:
        raise ValueError(
            f"top is for one score per class, and the net gives a volume of shape {volume} for each of these images: "
            "leave top out, and take the best classes at a position of the volume"
        )
    best = [_best(row.ravel(), top, classes) for row in backends.to_numpy(scores)]
    return best[0] if single else best


def prepare_images(net: Layer, images: object, normalize: bool | None) -> tuple[Array, bool]:
    """Any images that `predict` takes, as one batch in the net's dtype on its device, and whether `images` is a
    single image."""
    batch, single = as_batch(net, images)
    return _as_input(net, batch, _normalizes(net, batch, normalize)), single


def as_batch(net: Layer, images: object) -> tuple[Array, bool]:
    """The images as one array (N, H, W, C) of floats or uint8, and whether `images` is a single image."""
    expect_built(net)
    shape = net.input_shape or ()
    if isinstance(images, Iterator):
        images = [*images]
    elif isinstance(images, np.ndarray) and images.dtype.kind in "OUT":
        images = images.ravel().tolist()
    if _is_file(images):
        return _files(shape, [images]), True
    if isinstance(images, (list, tuple)):
        if not images:
            return np.empty((0, *shape), np.uint8), False
        if all(map(_is_file, images)):
            return _files(shape, images), False
        images = _stacked([_files(shape, [image])[0] if _is_file(image) else _array(image, shape) for image in images])
    array = _array(images, shape)
    if array.dtype != np.uint8 and not is_float(array.dtype):
        raise TypeError(f"images must be uint8 or floats, received {array.dtype.name}")
    if len(array.shape) - len(shape) not in (0, 1):
        raise ValueError(f"images must be of shape {shape}, or several of them, received shape {tuple(array.shape)}")
    single = len(array.shape) == len(shape)
    return (array.reshape(1, *array.shape) if single else array), single


def _is_file(image: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(image, (str, os.PathLike))


def _array(images: Any, shape: tuple[int, ...]) -> Array:  # noqa: ANN401 - an array of any library
    """Images in memory, channels last: an array of a device that runs kernels stays there, any other becomes a NumPy
    array. Gray images without a channel axis get one."""
    if kind_of(images) is not None:
        device = backends.device_of(images)
    else:
        # Tensors and Pillow images have one of these two attributes.
        if not (hasattr(images, "__array__") or hasattr(images, "__array_interface__")):
            hint = "; its images are .images" if hasattr(images, "images") else ""
            raise TypeError(
                "images must be an array of floats or uint8, a file, or a list of files or arrays, "
                f"received {type(images).__name__}{hint}"
            )
        images = images if is_torch(images) else backends.to_numpy(images, "images")
        device = "numpy"
    given = tuple(images.shape)
    if given != shape and (lacks_channels(given, shape, 3) or lacks_channels(given, shape, 4)):
        images = images.reshape(*images.shape, 1)
    return laid_out(images, shape, len(images.shape)) if not Device.named(device).runs_kernels else images


def _stacked(images: Sequence[Array]) -> np.ndarray:
    on_host = [backends.to_numpy(image, "an image") for image in images]
    if len(kinds := {(image.shape, image.dtype.name): None for image in on_host}) > 1:
        received = ", ".join(f"{dtype} {shape}" for shape, dtype in kinds)
        raise ValueError(f"all images of a list must have the same shape and dtype, received {received}")
    return np.stack(on_host)


def _files(shape: Shape, paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """The images in files, uint8 (N, *shape). Raises ValueError if the shape is not (H, W, C)."""
    if len(shape) != 3:
        raise ValueError(f"the net takes inputs of shape {shape}, received the image file {os.fspath(paths[0])!r}")
    height, width, channels = shape
    return np.stack([read_image(path, size=(height, width), channels=channels) for path in paths])


def _normalizes(net: Layer, batch: Array, requested: bool | None) -> bool:
    """Whether to apply the stored normalization. Raises ValueError if the caller has to decide."""
    requested = None if requested is None else arguments.flag("normalize", requested)
    if not requested and not batch.size:
        return False
    if requested or (requested is None and batch.dtype == np.uint8):
        if net.normalization is None:
            raise ValueError(
                "the normalization of these images is unknown: the net was not trained on uint8 images; set "
                "net.normalization = gpuconv.data.Normalization(mean, std), or give floats like those in training"
            )
        return True
    if requested is False or net.normalization is None:
        return False
    pixels = backends.to_numpy(batch)
    if looks_unnormalized(pixels):
        raise ValueError(
            f"these floats, from {pixels.min():g} to {pixels.max():g}, do not look normalized, and the net was trained "
            "on normalized ones: give uint8, which is normalized as in training, pass normalize=True for floats in "
            "the units of the pixels (0 to 255), or pass normalize=False for floats that are normalized already"
        )
    return False


def _scores(net: Layer, images: Array, batch_size: int, softmax: bool, normalize: bool) -> Array:
    count = images.shape[0]
    scores: Array | None = None
    device = backends.device_of(images)
    for first in range(0, max(count, 1), batch_size):
        x = _as_input(net, images[first : first + batch_size], normalize)
        with backends.current_device_of(x):  # a user's layers may call CuPy
            y = net.infer(x)
        if softmax:
            y = ops.softmax(y.reshape(math.prod(y.shape[:-1]), y.shape[-1])).reshape(y.shape)
        y = backends.asarray(y, device)
        if count <= batch_size:
            return y
        if scores is None:
            scores = backends.empty((count, *y.shape[1:]), y.dtype, device)
        backends.assign(scores[first : first + batch_size], y)
    assert scores is not None
    return scores


def _as_input(net: Layer, x: Array, normalize: bool) -> Array:
    """The images in the net's dtype on its device, normalized if `normalize`."""
    if normalize:
        x = _normalized(net, backends.to_numpy(x))
    if normalize or x.dtype != net.dtype or not is_on(x, net.device):
        x = backends.asarray(x, net.device, net.dtype)
    return x


def _normalized(net: Layer, x: np.ndarray) -> np.ndarray:
    found = net.normalization
    if x.dtype == np.uint8:
        return found(x)
    return (x.astype(np.float32) - found.mean) * (1 / found.std)


def _best(scores: np.ndarray, top: int, classes: Sequence[str] | None) -> list[tuple[str, float]]:
    exact = scores if scores.dtype.itemsize > 2 else scores.astype(np.float32)  # NumPy sorts bfloat16 only as float32
    order = np.argsort(-exact, kind="stable")[:top]
    return [(str(index) if classes is None else classes[index], float(scores[index])) for index in order]
