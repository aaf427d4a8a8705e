"""Makes loaders from a user's data sets, checks that they fit the net, and describes them for run.json."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

from gpuconv import losses
from gpuconv.arguments import integer
from gpuconv.data import Dataset, Loader, Normalization, sources
from gpuconv.data.normalization import looks_unnormalized
from gpuconv.data.samples import Samples
from gpuconv.data.stream_loader import StreamLoader
from gpuconv.devices import Device
from gpuconv.layers import BatchNorm, Input, Sequential
from gpuconv.layers.base import Layer
from gpuconv.losses import SoftmaxCrossEntropy, SVMHinge
from gpuconv.types import Record


class DataError(ValueError):
    """Images, labels or batches that the net cannot be trained or tested on."""


def loaders(
    data: Record,
    *,
    net: Layer,
    batch_size: int,
    seed: int,
    steps_per_epoch: int | None = None,
    normalization: Normalization | None = None,
) -> Record:
    """A loader for each part of `data`, in order. The first part is for training; others may be None, which stays None.

    Only the first part is shuffled. uint8 images are normalized by `normalization`, by default with the statistics of
    the first part. steps_per_epoch: the number of batches in an epoch of the first part, if it is an iterable of
    batches, by default its length. Raises TypeError if no loader can be made from the data, or if those statistics are
    unknown.
    """
    made: Record = {}
    part_of_training = data.get("validation") if is_fraction(data.get("validation")) else None
    data = with_part(data, net, seed)
    for name, part in data.items():
        if not made:
            normalize = partial(choose_normalization, name, normalization)
            made[name] = loader(
                name, part, net, normalize, batch_size=batch_size, seed=seed, shuffle=True, length=steps_per_epoch
            )
            if steps_per_epoch is not None and (batches := length(made[name])) not in (None, steps_per_epoch):
                raise ValueError(
                    f"steps_per_epoch is for a generator or another iterable of batches; {name} has {batches} batches "
                    f"in an epoch, received steps_per_epoch={steps_per_epoch}"
                )
            known = _normalization(made[name]) or normalization
        else:
            normalize = partial(as_in_training, name, known)
            made[name] = None if part is None else loader(name, part, net, normalize, batch_size=batch_size, seed=seed)
    if part_of_training is not None:
        made["validation"].part = float(part_of_training)
    return made


def is_fraction(data: object) -> bool:
    return isinstance(data, Real) and not isinstance(data, bool)


def with_part(data: Record, net: Any, seed: int) -> Record:
    """The same data; but if "validation" is a fraction, this part of the first data set becomes the validation data."""
    name, fraction = next(iter(data)), data.get("validation")
    if fraction is None or not is_fraction(fraction):
        return data
    if not 0 < fraction < 1:
        raise ValueError(f"validation must be data, or a part of {name} between 0 and 1, received {fraction}")
    training = sources.as_data_source(
        data[name], name, net.input_shape, classes=net.output_shape[-1], device=net.device, dtype=net.dtype
    )
    samples = training.dataset if _batches_own_data(training) else training
    if not isinstance(samples, (Dataset, Samples)):
        raise TypeError(
            f"validation={fraction} splits a data set, and {name} gives batches ({type(data[name]).__name__}); "
            "give separate validation data"
        )
    rest, part = samples.split(float(fraction), seed=seed, what="validation")
    if training is not samples:
        rest, part = training.over(rest), training.over(part, augmentation=None, shuffle=False, drop_last=False)
    return data | {name: rest, "validation": part}


def held_out(name: str, data: object, net: Layer, normalization: Normalization | None, batch_size: int) -> Any:
    """A loader of held-out data: not shuffled, and normalized by `normalization`, by default as in training."""
    normalize = partial(as_in_training, name, normalization or getattr(net, "normalization", None))
    found = loader(name, data, net, normalize, batch_size=integer("batch_size", batch_size, 1))
    expect(name, found, net, None)
    return found


def loader(
    name: str,
    data: Any,
    net: Any,
    normalize: Callable[[Any], Normalization | None],
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = False,
    length: int | None = None,
) -> Any:
    """A loader of a user's data; an object with `epoch` is returned as it is. normalize: a function of the images (a
    data set, or the first batch) that returns their normalization, or None for floats."""
    data = sources.as_data_source(
        data,
        name,
        net.input_shape,
        classes=net.output_shape[-1],
        device=net.device,
        dtype=net.dtype,
        length=length,
        normalize=normalize,
    )
    if not isinstance(data, (Dataset, Samples)):
        return data
    kind: Any = Loader if isinstance(data, Dataset) else StreamLoader
    return kind(
        data, batch_size, normalization=normalize(data), seed=seed, shuffle=shuffle, device=net.device, dtype=net.dtype
    )


def expect_repeatable(name: str, data: object) -> None:
    """Raise ValueError for data that can be iterated over only once."""
    if hasattr(data, "__next__"):
        raise ValueError(
            f"{name} is a {type(data).__name__}, which gives each batch once, and every epoch needs them: give the "
            "function that makes it, or a list of batches"
        )


def choose_normalization(name: str, known: Normalization | None, data: object) -> Normalization | None:
    """The normalization of training images: the known one, else one by their statistics; None for floats.

    known: the normalization of the net's images so far. If there is one, floats that do not look normalized raise
    ValueError."""
    if _is_uint8(data):
        return known or Normalization.measured(data)
    if known is not None and looks_unnormalized(first_images := _first_images(data)):
        raise ValueError(
            f"the floats of {name}, from {first_images.min():g} to {first_images.max():g}, do not look normalized, "
            "and the net's images are: give uint8, or floats normalized by net.normalization; net.normalization = None "
            "removes it"
        )
    return None


def as_in_training(name: str, known: Normalization | None, data: object) -> Normalization | None:
    """The normalization of validation or test images: that of the training images, `known`; None for floats.

    Raises TypeError if it is needed and unknown, and ValueError if the training images are normalized and the floats
    here do not look normalized."""
    if _is_uint8(data):
        if known is None:
            raise TypeError(
                f"the normalization of the uint8 images of {name} is unknown, as the training images were not "
                f"normalized: give {name} as a Loader too, or as floats, or pass normalization="
            )
        return known
    if known is not None and looks_unnormalized(first_images := _first_images(data)):
        raise ValueError(
            f"the floats of {name}, from {first_images.min():g} to {first_images.max():g}, do not look normalized, "
            "and the training images are uint8, which is normalized: give uint8 here too, or floats for both"
        )
    return None


def _first_images(data: object) -> Any:
    return data.first(64) if isinstance(data, Samples) else data


def _is_uint8(data: Any) -> bool:
    return data.raw if isinstance(data, (Dataset, Samples)) else data.dtype == np.uint8


def _normalization(training: object) -> Normalization | None:
    """The normalization of the training loader, else one by the statistics of its images; None for floats, or if the
    images are unknown."""
    known, data = getattr(training, "normalization", None), getattr(training, "dataset", None)
    if known is None and isinstance(data, (Dataset, Samples)) and data.raw:
        return Normalization.from_dataset(data)
    return known


def expect(name: str, loader: Any, net: Any, loss: object, shards: int = 1, parts: str = "shards") -> None:
    """Raise DataError if a loader's images, labels or last batch do not fit the net and its loss, as far as that can be
    known in advance.

    shards: the number of shards into which a batch is cut. parts: the word for them in messages."""
    if not _batches_own_data(loader):
        return
    data = loader.dataset
    first = net[0] if isinstance(net, Sequential) else net
    if isinstance(first, Input):
        try:
            first.expect(data.image_shape)
        except ValueError as error:
            raise DataError(f"{name} does not fit: {error} from {data.name!r}") from None
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
            losses.expect_targets(loss, data.labels, net.output_shape)
    except TypeError as error:
        raise DataError(f"{name} does not fit: {error} from {data.name!r}") from None
    if loader.augmentation.mixing:
        _expect_mixable(name, loader, net, loss)
    numbers = data.labels if data.labels is not None and data.labels.ndim == 1 else np.zeros(0, np.int64)
    classes, most = net.output_shape[-1], int(numbers[numbers != losses.ignored_label(loss)].max(initial=-1))
    compares = isinstance(loss, (SoftmaxCrossEntropy, SVMHinge)) and (data.labels is None or numbers.size)
    if compares and name == "train" and min(classes, len(data.classes)) < 2:
        only = f"{data.name!r} has one class, {[*data.classes, 'none'][0]!r}"
        what = only if len(data.classes) < 2 else "the net gives one score"
        raise DataError(f"{what}: there is nothing to classify; training needs at least two classes")
    if compares and most >= classes:
        raise DataError(
            f"{name} does not fit: the net has {classes} classes, labels 0 to {classes - 1}, received {most} "
            f"from {data.name!r}"
        )
    if name != "train" or data.image_shape != net.input_shape:  # the layers' shapes for larger images are unknown
        return
    size = loader.size(len(loader) - 1)
    smallest, which = size // shards, "smallest part" if shards > 1 else "last batch"
    if not smallest:
        raise DataError(
            f"{shards} {parts} need at least {shards} images in each batch, and the last batch has {size}: choose "
            f"another batch size than {loader.batch_size} for {len(data)} images, or drop that batch (drop_last)"
        )
    for layer in net.walk():
        shape = layer.input_shape
        if isinstance(layer, BatchNorm) and shape and smallest * math.prod(shape[:-1]) < 2:
            raise DataError(
                f"{layer.path} needs statistics of more than one value, and the {which} has one image: choose "
                f"another batch size than {loader.batch_size} for {len(data)} images, or drop that batch (drop_last)"
            )


def _expect_mixable(name: str, loader: Loader, net: Any, loss: object) -> None:
    """Raise DataError unless the loader's mixup or cutmix fits the purpose, the net and the loss."""
    mixing, classes, scores = loader.augmentation.mixing, len(loader.dataset.classes), net.output_shape
    if name != "train":
        raise DataError(f"{name} would be mixed by {mixing}, which is for training: make its loader without it")
    if not losses.takes_probabilities(loss):
        raise DataError(
            f"{mixing} turns labels into probabilities, which {losses.describe(loss)} does not take: train with the "
            f"loss softmax, without ignore_index, or without {mixing}"
        )
    if scores != (classes,):
        raise DataError(
            f"{mixing} gives a probability for each of the {classes} classes of {loader.dataset.name!r}, and the net's "
            f"scores have shape {scores}"
        )


def set_image_notes(net: Any, loader: object, normalization: Normalization | None = None) -> None:
    """Set the net's normalization, and its classes if they have names.

    normalization: the one by which the caller normalized floats, if known."""
    net.normalization = getattr(loader, "normalization", None) or normalization
    classes = getattr(getattr(loader, "dataset", None), "classes", None) or ()
    named = getattr(net, "classes", None)
    known = named is not None and len(named) == net.output_shape[-1]
    if len(classes) == net.output_shape[-1] and not (known and all(name.isdecimal() for name in classes)):
        net.classes = [*classes]
    elif not known:
        net.classes = None


def describe(loader: object, at_end: bool = False) -> Record | None:
    """A description of a loader and its data, with a checksum that detects changed data. JSON-serializable.

    at_end: whether the data are used only at the end of a run."""
    if loader is None:
        return None
    data: Any = getattr(loader, "dataset", None)
    known: Record = {"batches": length(loader)}
    if isinstance(loader, Loader):
        known = {
            "name": data.spec or data.name,
            "images": len(data),
            "shape": list(data.image_shape),
            "checksum": data.checksum(),
            "batch_size": loader.batch_size,
            "shuffle": loader.shuffle,
            "drop_last": loader.drop_last,
            "seed": loader.seed,
            "augmentation": str(loader.augmentation),
        }
    known |= {"at_end": at_end or None, "part": getattr(loader, "part", None)}
    return {name: value for name, value in known.items() if value is not None}


def expect_length(loader: object) -> int:
    """The number of batches in an epoch of the training data. Raises ValueError if it is unknown."""
    if (count := length(loader)) is None:
        raise ValueError(
            "the number of batches in an epoch of train is unknown; give fit(..., steps_per_epoch=100). Schedules and "
            "progress need it"
        )
    return count


def length(loader: Any) -> int | None:
    """The number of batches, or None if unknown."""
    try:
        return len(loader)
    except TypeError:
        return None


def is_our_loader(loader: object) -> TypeGuard[Loader]:
    """Whether it is a `Loader` whose `epoch` is not overridden, so that its batches may be loaded in another way."""
    return isinstance(loader, Loader) and type(loader).epoch is Loader.epoch


def _batches_own_data(loader: object) -> bool:
    """Whether it is a `Loader` or a `StreamLoader` whose `epoch` is not overridden, so that its data set tells what is
    in its batches."""
    return is_our_loader(loader) or (isinstance(loader, StreamLoader) and type(loader).epoch is StreamLoader.epoch)
