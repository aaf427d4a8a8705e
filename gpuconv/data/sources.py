"""Recognizes the kind of a user's data, and makes a data set or batches from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.arguments import is_array
from gpuconv.data.dataset import Dataset
from gpuconv.data.expect import as_targets, expect_finite, expect_image_dtype, expect_pair
from gpuconv.data.samples import ArraySamples, MapSamples, Samples, memory_mapped
from gpuconv.data.user_batches import Batches
from gpuconv.images.layout import laid_out
from gpuconv.images.normalization import Normalization

ACCEPTED = (
    "(images, labels), a gpuconv.data.Dataset or Loader, an object with __len__ and __getitem__, "
    "or batches: a PyTorch DataLoader, a generator, or a function that makes one"
)

_MOST_NAMED = 1 << 20  # more classes than this stay without names, so that a wrong label cannot fill the memory


class Indexed(Protocol):
    """(image, label) by index, like PyTorch's Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


class Epochs(Protocol):
    """Batches (images, labels) of an epoch, like `gpuconv.data.Loader`."""

    def epoch(self, epoch: int, /, start_batch: int = 0) -> Iterable[Any]: ...


def as_data_source(
    data: Any,  # noqa: ANN401 - what `ACCEPTED` names
    name: str,
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    device: str,
    dtype: DTypeLike,
    length: int | None = None,
    normalize: Callable[[np.ndarray], Normalization | None] = Normalization.measured,
    ignored: int | None = None,
) -> Dataset | Samples | Epochs:
    """`data` as a Dataset, as Samples, or as an object with ``epoch(epoch, start_batch)``.

    name: for messages. shape: of one image, as the net takes it. classes: the number of the net's scores. length: for
    an iterable of batches, the number of batches in an epoch; by default len(data), if data has a length. device,
    dtype, normalize: passed to `Batches`, as `length` is; other kinds of data do not need them. ignored: the label of
    images that do not count, or None; a Dataset and Samples have their own.

    Raises TypeError for data that is none of `ACCEPTED` or has another dtype, and ValueError for data that is empty,
    and for images or labels that are not accepted.
    """
    if isinstance(data, type) and (  # any other class counts as a function that makes batches
        issubclass(data, (Dataset, Samples)) or hasattr(data, "epoch") or hasattr(data, "__getitem__")
    ):
        raise TypeError(f"{name} must be {ACCEPTED}; received the class {data.__name__}, not an object of it")
    if isinstance(data, (Dataset, Samples)) or hasattr(data, "epoch"):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Dataset) for part in data):
        raise TypeError(f"{name} must be one data set, received two: train, test = gpuconv.data.load(...) unpacks them")
    if isinstance(data, (tuple, list)) and len(data) == 2 and _are_images_and_labels(data[0], data[1], len(shape)):
        return _of_arrays(data[0], data[1], name, shape, classes, ignored)
    if isinstance(data, str):
        raise TypeError(
            f"{name} must be {ACCEPTED}; received str: gpuconv.data.load({data!r}) reads a data set by name"
        )
    if isinstance(data, (bytes, dict, set)) or is_array(data):
        raise TypeError(f"{name} must be {ACCEPTED}; received {type(data).__name__}")
    indexed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if indexed and not len(data):
        raise ValueError(f"{name} is empty: its length is 0")
    if indexed and (made := _of_map(data, name, shape, classes, ignored)):
        return made
    if not (hasattr(data, "__iter__") or callable(data) or indexed):
        raise TypeError(f"{name} must be {ACCEPTED}; received {type(data).__name__}")
    return Batches(
        data,
        name,
        shape,
        length=length_of(data) if length is None else length,
        device=device,
        dtype=dtype,
        normalize=normalize,
        ignored=ignored,
    )


def _are_images_and_labels(images: Any, labels: Any, rank: int) -> bool:  # noqa: ANN401 - any two objects
    """Whether they are images and their labels, in arrays or lists, rather than two pairs (image, label) or two
    batches. rank: the number of axes of an image; a gray one may lack the last."""
    if not isinstance(images, (tuple, list)):
        return is_array(images)
    if is_array(labels):
        return True
    return isinstance(labels, (tuple, list)) and len(labels) > 0 and np.ndim(labels[0]) < max(1, rank - 1)


def _of_arrays(
    images: object, labels: object, name: str, shape: tuple[int, ...], classes: int, ignored: int | None
) -> Dataset | ArraySamples:
    """uint8 images (N, H, W, C) in memory with class numbers (below `_MOST_NAMED`) become a Dataset, which moves to the
    device as a whole; other arrays are read batch by batch."""
    in_file = memory_mapped(images)
    images = laid_out(images, shape, rank=1 + len(shape))
    expect_image_dtype(images.dtype, name)
    if not images.size:
        raise ValueError(f"data set {name!r} is empty: images of shape {images.shape}")
    numbers = as_targets(labels, name, len(images), ignored)
    count = max(classes, int(numbers[numbers != ignored].max(initial=-1)) + 1) if numbers.ndim == 1 else 0
    names = [str(label) for label in range(count if count <= _MOST_NAMED else 0)]
    if names and images.dtype == np.uint8 and in_file is None and images.ndim == 4:
        return Dataset(images, numbers, names, name, ignored=ignored)
    if in_file is None:  # a file is not read just for this check; a NaN in it shows up in the loss
        expect_finite(images, name)
    return ArraySamples(
        name=name,
        image_shape=images.shape[1:],
        dtype=images.dtype,
        labels=numbers,
        classes=names,
        ignored=ignored,
        images=images,
    )


def _of_map(data: Indexed, name: str, shape: tuple[int, ...], classes: int, ignored: int | None) -> MapSamples | None:
    """The object as samples, or None if its items are batches."""
    first: Any = data[0]
    expect_pair(f"{name}[0]", first, f"; {name} may be {ACCEPTED}")
    image = laid_out(first[0], shape, rank=len(shape))
    if image.ndim > len(shape) or _are_gray_batch(image, first[1], shape):
        return None
    expect_image_dtype(image.dtype, name)
    expect_finite(image[None], name)
    given = getattr(data, "classes", None)  # only names count; it may also be a number or a method
    names = [*map(str, given)] if np.iterable(given) else []
    names = names or [str(label) for label in range(classes)]
    return MapSamples(
        name=name, image_shape=image.shape, dtype=image.dtype, classes=names, ignored=ignored, source=data
    )


def _are_gray_batch(images: np.ndarray, labels: Any, shape: tuple[int, ...]) -> bool:  # noqa: ANN401 - any object
    """Whether they are gray images without a channel axis, (N, H, W), and their N labels. shape: of one image."""
    if len(shape) != 3 or shape[2] != 1 or images.ndim != 3 or images.shape[1:] != shape[:2]:
        return False
    return np.shape(labels)[:1] == images.shape[:1]


def length_of(data: Any) -> int | None:  # noqa: ANN401 - any object
    """The number of entries or batches, or None if it is unknown."""
    try:
        return len(data)
    except TypeError:
        return None
