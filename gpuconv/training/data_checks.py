"""Checks, before training, that a user's data fit the net and its loss."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np

from gpuconv import losses
from gpuconv.data import Loader
from gpuconv.data.sources import length_of
from gpuconv.data.stream_loader import StreamLoader
from gpuconv.devices import Device
from gpuconv.layers import BatchNorm, Input, Layer, Sequential
from gpuconv.types import Shape


class DataError(ValueError):
    """Images, labels or batches that the net cannot be trained or tested on."""


def expect(
    name: str,
    loader: object,
    net: Layer,
    loss: object,
    shards: int = 1,
    parts: str = "shards",
    sync_batch_norm: bool = False,
) -> None:
    """Raise DataError if a loader's images, labels, last batch, dtype, device, mixup or cutmix do not fit the net and
    its loss, as far as that can be known in advance.

    shards: the number of shards into which a batch is cut. parts: the word for them in messages.
    sync_batch_norm: whether batch norm takes statistics over all shards."""
    if not batches_own_data(loader):
        return
    data, outputs = loader.dataset, net.output_shape or ()
    expect_shape(name, data.image_shape, net, f" from {data.name!r}")
    if loader.dtype != net.dtype:
        raise DataError(
            f"{name} gives {loader.dtype.name} batches, and the net computes in {net.dtype.name}: make the loader with "
            "dtype=net.dtype"
        )
    if Device.named(loader.device) != Device.named(net.device):
        raise DataError(
            f"{name} gives batches on {loader.device}, and the net is on {net.device}: make the loader with "
            "device=net.device"
        )
    try:
        if data.labels is not None:
            losses.expect_targets(loss, data.labels, outputs)
    except TypeError as error:
        raise DataError(f"{name} does not fit: {error} from {data.name!r}") from None
    if loader.augmentation.mixing:
        _expect_mixable(name, loader, net, loss)
    labels = data.labels if data.labels is not None and data.labels.ndim == 1 else np.zeros(0, np.int64)
    classes = outputs[-1]
    counted = labels[labels != losses.ignored_label(loss)]
    low, high = int(counted.min(initial=0)), int(counted.max(initial=-1))
    classifies = losses.is_ours(loss) and losses.classifies(loss) and (data.labels is None or labels.size)
    has_one_class = len(data.classes) == 1  # len(data.classes) is 0 if the names are unknown
    if classifies and name == "train" and (has_one_class or classes == 1):
        what = f"{data.name!r} has one class, {data.classes[0]!r}" if has_one_class else "the net gives one score"
        raise DataError(f"{what}: there is nothing to classify; training needs at least two classes")
    if classifies and (low < 0 or high >= classes):
        raise DataError(
            f"{name} does not fit: the net has {classes} classes, labels 0 to {classes - 1}, received "
            f"{low if low < 0 else high} from {data.name!r}"
        )
    if name != "train" or data.image_shape != net.input_shape:  # the layers' shapes for larger images are unknown
        return
    size = loader.size(len(loader) - 1)
    smallest = size // shards
    if not smallest:
        raise DataError(
            f"{shards} {parts} need at least {shards} images in each batch, and the last batch has {size}: choose "
            f"another batch size than {loader.batch_size} for {len(data)} images, or drop that batch (drop_last)"
        )
    images = size if sync_batch_norm else smallest
    which = "last batch" if images == size else "smallest part"
    for layer in net.walk():
        shape = layer.input_shape
        if isinstance(layer, BatchNorm) and shape and images * math.prod(shape[:-1]) < 2:
            raise DataError(
                f"{layer.path} needs statistics of more than one value, and the {which} has one image: choose "
                f"another batch size than {loader.batch_size} for {len(data)} images, or drop that batch (drop_last)"
            )


def expect_shape(name: str, shape: Shape, net: Layer, origin: str = "") -> None:
    """Raise DataError if a net that begins with `Input` does not take images of this shape. origin: text that is
    appended to the message."""
    first = net[0] if isinstance(net, Sequential) else net
    if isinstance(first, Input):
        try:
            first.expect(shape)
        except ValueError as error:
            raise DataError(f"{name} does not fit: {error}{origin}") from None


def _expect_mixable(name: str, loader: Loader | StreamLoader, net: Layer, loss: object) -> None:
    """Raise DataError unless the loader is for training, and its mixup or cutmix fits the net and the loss."""
    mixing, classes, scores = loader.augmentation.mixing, len(loader.dataset.classes), net.output_shape
    if name != "train":
        raise DataError(f"{name} would be mixed by {mixing}, which is for training: make the loader without {mixing}")
    if not losses.takes_probabilities(loss):
        raise DataError(
            f"{mixing} turns labels into probabilities, which {losses.describe(loss)} does not take: train with the "
            f"loss softmax without ignore_index, or make the loader without {mixing}"
        )
    if scores != (classes,):
        raise DataError(
            f"{mixing} gives a probability for each of the {classes} classes of {loader.dataset.name!r}, and the net's "
            f"scores have shape {scores}"
        )


def expect_repeatable(name: str, data: object) -> None:
    """Raise ValueError for data that can be iterated over only once."""
    if hasattr(data, "__next__"):
        raise ValueError(
            f"{name} is a {type(data).__name__}, which gives each batch once, and every epoch needs all "
            "batches: give the function that makes it, or a list of batches"
        )


def expect_length(loader: object) -> int:
    """The number of batches in an epoch of the training data. Raises ValueError if it is unknown."""
    if (count := length_of(loader)) is None:
        raise ValueError(
            "the number of batches in an epoch of train is unknown; give fit(..., steps_per_epoch=100), or batches "
            "with a length. Schedules and progress need this number"
        )
    return count


def is_our_loader(loader: object) -> TypeGuard[Loader]:
    """Whether it is a `Loader` whose `epoch` is not overridden, so that its batches may be loaded without `epoch`."""
    return isinstance(loader, Loader) and type(loader).epoch is Loader.epoch


def batches_own_data(loader: object) -> TypeGuard[Loader | StreamLoader]:
    """Whether it is a `Loader` or a `StreamLoader` whose `epoch` is not overridden, so that its data set tells what is
    in its batches."""
    return is_our_loader(loader) or (isinstance(loader, StreamLoader) and type(loader).epoch is StreamLoader.epoch)
