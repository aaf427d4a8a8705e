"""Makes the loaders of the data that a user gives to `fit` or `evaluate`, and describes them for run.json."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from gpuconv import losses
from gpuconv.arguments import integer
from gpuconv.data import Dataset, Loader, Normalization, sources
from gpuconv.data.samples import Samples
from gpuconv.data.sources import Epochs, length_of
from gpuconv.data.stream_loader import make_loader
from gpuconv.images.normalization import looks_unnormalized
from gpuconv.layers.base import Layer
from gpuconv.layers.image_notes import expect_normalization
from gpuconv.losses import Loss
from gpuconv.training.data_checks import batches_own_data, expect
from gpuconv.types import Record

Images = Dataset | Samples | np.ndarray
DataSets = dict[str, Any]  # a user's data of any kind by name: "train", "validation", "test"; some may be None
Loaders = dict[str, Any]  # a loader for each of these, under the same name, or None


def loaders(
    data: DataSets,
    *,
    net: Layer,
    batch_size: int,
    seed: int,
    steps_per_epoch: int | None = None,
    normalization: Normalization | None = None,
    ignored: int | None = None,
) -> Loaders:
    """A loader for each data set, in order. The first one is for training; others may be None, which stays None.

    Only the first data set is shuffled. Its uint8 images are normalized by `normalization`, by default by their own
    statistics. The uint8 images of the others get the normalization of the first, or `normalization` if the first has
    floats. A data set that is a `Loader` keeps its own order and normalization. steps_per_epoch: the number of batches
    in an epoch of the first data set, if that is an iterable of batches; by default its length. ignored: the label of
    images that do not count.

    Raises:
        TypeError: No loader can be made from the data, or the normalization of uint8 images is unknown.
        ValueError: The first data set has another number of batches than `steps_per_epoch`; or "validation" is a
            fraction that is not between 0 and 1; or floats do not look normalized, although the net's other images are.
    """
    if normalization is not None:
        expect_normalization(normalization, net.input_shape)
    if steps_per_epoch is not None:
        steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, 1)
    made: Loaders = {}
    fraction = data.get("validation") if is_fraction(data.get("validation")) else None
    data = with_split_off(data, net, seed, ignored)
    for name, given in data.items():
        if not made:
            normalize = partial(choose_normalization, name, normalization)
            made[name] = loader(
                name,
                given,
                net,
                normalize,
                batch_size=batch_size,
                seed=seed,
                shuffle=True,
                length=steps_per_epoch,
                ignored=ignored,
            )
            if steps_per_epoch is not None and (batches := length_of(made[name])) not in (None, steps_per_epoch):
                raise ValueError(
                    f"steps_per_epoch is for a generator or another iterable of batches; {name} has {batches} batches "
                    f"in an epoch, received steps_per_epoch={steps_per_epoch}"
                )
            known = _normalization(made[name]) or normalization
        else:
            normalize = partial(as_in_training, name, known)
            if given is not None:
                given = loader(name, given, net, normalize, batch_size=batch_size, seed=seed, ignored=ignored)
            made[name] = given
    if fraction is not None:
        made["validation"].part = float(fraction)
    return made


def is_fraction(data: object) -> bool:
    return isinstance(data, Real) and not isinstance(data, bool)


def with_split_off(data: DataSets, net: Layer, seed: int, ignored: int | None) -> DataSets:
    """The same data; but if "validation" is a fraction, that fraction of the first data set is split off and becomes
    the validation data."""
    name, fraction = next(iter(data)), data.get("validation")
    if fraction is None or not is_fraction(fraction):
        return data
    if not 0 < fraction < 1:
        raise ValueError(f"validation must be data, or a part of {name} between 0 and 1, received {fraction}")
    training = _source(name, data[name], net, ignored=ignored)
    samples = training.dataset if batches_own_data(training) else training
    if not isinstance(samples, (Dataset, Samples)):
        raise TypeError(
            f"validation={fraction} splits a data set, and {name} gives batches ({type(data[name]).__name__}); "
            "give separate validation data"
        )
    rest, part = samples.split(float(fraction), seed=seed, what="validation")
    if not batches_own_data(training):
        return data | {name: rest, "validation": part}
    validation = training.over(part, augmentation=None, shuffle=False, drop_last=False)
    return data | {name: training.over(rest), "validation": validation}


def held_out(
    name: str, data: object, net: Layer, normalization: Normalization | None, batch_size: int, loss: Loss
) -> Epochs:
    """A loader of held-out data: not shuffled, and normalized by `normalization`, by default as in training. Raises
    DataError as `expect` does."""
    if normalization is not None:
        expect_normalization(normalization, None)  # None: the shape is checked when images are normalized
    normalize = partial(as_in_training, name, normalization or getattr(net, "normalization", None))
    size, ignored = integer("batch_size", batch_size, 1), losses.ignored_label(loss)
    found = loader(name, data, net, normalize, batch_size=size, ignored=ignored)
    expect(name, found, net, loss)
    return found


def loader(
    name: str,
    data: object,
    net: Layer,
    normalize: Callable[[Any], Normalization | None],
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = False,
    length: int | None = None,
    ignored: int | None = None,
) -> Epochs:
    """A loader of a user's data; an object with `epoch` is returned as it is. normalize: a function of the images (a
    data set, or the first batch) that returns their normalization, or None for floats."""
    source = _source(name, data, net, length=length, normalize=normalize, ignored=ignored)
    if not isinstance(source, (Dataset, Samples)):
        return source
    return make_loader(
        source,
        batch_size,
        normalization=normalize(source),
        seed=seed,
        shuffle=shuffle,
        device=net.device,
        dtype=net.dtype,
    )


def _source(name: str, data: object, net: Layer, **options: Any) -> Dataset | Samples | Epochs:
    """A user's data as `sources.as_data_source` returns it. options: that function's length, normalize and
    ignored."""
    scores = net.output_shape or (0,)
    return sources.as_data_source(
        data, name, net.input_shape or (), classes=scores[-1], device=net.device, dtype=net.dtype, **options
    )


def choose_normalization(name: str, known: Normalization | None, data: Images) -> Normalization | None:
    """The normalization of training images: the known one, else one by their statistics; None for floats.

    known: the normalization of the net's images so far. If there is one, floats that do not look normalized raise
    ValueError."""
    if _is_uint8(data):
        return known or Normalization.measured(data)
    if known is not None and looks_unnormalized(first_images := _first_images(data)):
        raise ValueError(
            f"the floats of {name}, from {first_images.min():g} to {first_images.max():g}, do not look normalized, "
            "although the net's images are normalized: give uint8, or floats normalized by net.normalization, or set "
            "net.normalization to None"
        )
    return None


def as_in_training(name: str, known: Normalization | None, data: Images) -> Normalization | None:
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


def _first_images(data: Images) -> np.ndarray:
    return data if isinstance(data, np.ndarray) else data.first(64)


def _is_uint8(data: Images) -> bool:
    return data.dtype == np.uint8 if isinstance(data, np.ndarray) else data.raw


def _normalization(training: object) -> Normalization | None:
    """The normalization of the training loader, else one by the statistics of its images; None for floats, or if the
    images are unknown."""
    known, data = getattr(training, "normalization", None), getattr(training, "dataset", None)
    if known is None and isinstance(data, (Dataset, Samples)) and data.raw:
        return Normalization.from_dataset(data)
    return known


def set_image_notes(
    net: Any,  # noqa: ANN401 - a Sequential, or a layer that gets these attributes
    loader: object,
    normalization: Normalization | None = None,
) -> None:
    """Set the net's normalization and the names of its classes. If the net already has a name for each score, the
    data's names replace them only if there are as many and not all of them are numbers.

    normalization: the one by which the caller normalized floats, if known."""
    net.normalization = getattr(loader, "normalization", None) or normalization
    classes = [*map(str, getattr(getattr(loader, "dataset", None), "classes", None) or ())]
    named = getattr(net, "classes", None)
    known = named is not None and len(named) == net.output_shape[-1]
    only_numbers = all(name.isdecimal() for name in classes)  # these do not replace names
    if len(classes) == net.output_shape[-1] and not (known and only_numbers):
        net.classes = classes
    elif not known:
        net.classes = None


def describe(loader: object, at_end: bool = False) -> Record | None:
    """A description of a loader and its data; for a `Loader`, with a checksum that detects changed data.
    JSON-serializable.

    at_end: whether the data are used only at the end of a run."""
    if loader is None:
        return None
    data: Any = getattr(loader, "dataset", None)
    known: Record = {"batches": length_of(loader)}
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
