"""Labeled images in memory."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuconv import random
from gpuconv.arguments import number
from gpuconv.backends import to_numpy


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, checked on creation.

    images: uint8 (N, H, W, C), not empty. labels: integers (N,) in [0, len(classes)) or `ignored`, stored as int64.
    classes: the names of the classes. name: the name of the set. spec: the text from which `gpuconv.data.load` loads
    it, if there is one. ignored: the label of images that do not count, such as a loss's ignore_index; `split` puts
    these images into the first set.

    Raises TypeError for other types and dtypes, and ValueError for other shapes, labels out of range and an empty set.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    name: str = "images"
    spec: str = ""
    ignored: int | None = None

    def __post_init__(self) -> None:
        images, labels = (to_numpy(getattr(self, part), f"{part} of {self.name!r}") for part in ("images", "labels"))
        classes = names_as_text(self.classes, self.name)
        if images.dtype != np.uint8:
            raise TypeError(f"images of {self.name!r} must be uint8 in 0..255, received {images.dtype.name}")
        if images.ndim != 4:
            raise ValueError(f"images of {self.name!r} must have the axes (N, H, W, C), received shape {images.shape}")
        if images.size == 0:
            raise ValueError(f"data set {self.name!r} is empty: images of shape {images.shape}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels of {self.name!r} must be integers, received {labels.dtype.name}")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels of {self.name!r} must be one for each of {len(images)} images, received shape {labels.shape}"
            )
        counted = labels[labels != self.ignored]
        if counted.size and (counted.min() < 0 or counted.max() >= len(classes)):
            raise ValueError(
                f"labels of {self.name!r} must be in [0, {len(classes)}), one for each class, received "
                f"{counted.min()} to {counted.max()}"
            )
        object.__setattr__(self, "images", np.ascontiguousarray(images))
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        h, w, c = self.image_shape
        return f"Dataset({self.name!r}: {len(self)} images of {h}x{w}x{c} in {len(self.classes)} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C): the net's input shape."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    raw = True  # whether the images are uint8, which still have to be normalized

    def first(self, count: int) -> NDArray[np.uint8]:
        """The first `count` images."""
        return self.images[:count]

    def measured(self) -> NDArray[np.uint8]:
        """The images from which the normalization is computed."""
        return self.images

    def checksum(self) -> str:
        """A checksum of images and labels, in their order."""
        return f"{zlib.crc32(self.labels.data, zlib.crc32(self.images.data)):08x}"

    def subset(self, indices: slice | Sequence[int] | np.ndarray) -> Dataset:
        """The images at `indices`: a slice, integers (any order, repeats allowed) or a mask. Raises ValueError if
        there is no image, IndexError for an index out of range or a mask of another length, and TypeError for a single
        integer."""
        indices = as_index(indices)
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices])

    def relabeled(self, classes: Sequence[str]) -> Dataset:
        """The same images, with labels numbered by the order of class names in `classes`.

        Raises ValueError if the names differ, or if only their order differs and one occurs twice, or if a class of
        these images would get the number `ignored`, and TypeError if `classes` is not iterable.
        """
        names = names_as_text(classes, self.name)
        counted, labels = self.labels != self.ignored, self.labels.copy()
        labels[counted] = class_indices(self, names)[labels[counted]]
        if (labels[counted] == self.ignored).any():
            raise ValueError(
                f"{names[int(self.ignored or 0)]!r} would be class {self.ignored} of {self.name!r}, whose images are "
                "ignored: give the classes in another order"
            )
        return dataclasses.replace(self, labels=labels, classes=names)

    relabelled = relabeled  # the former name

    def split(self, fraction: float, *, seed: int = 0, what: str = "test") -> tuple[Dataset, Dataset]:
        """Two sets: the second has `fraction` of every class, the first has the rest. A class of at least two images
        has at least one in each set. The order is kept.

        Args:
            fraction: Between 0 and 1.
            seed: The seed of the draw.
            what: The purpose of the second set, for messages.

        Raises:
            ValueError: `fraction` is not between 0 and 1, or no class has two images, so that the second set would be
                empty.
        """
        second = fraction_mask(self.labels, fraction, seed, f"the {what} part of {self.name!r}", self.ignored)
        return self.subset(~second), self.subset(second)


def as_index(indices: slice | Sequence[int] | np.ndarray) -> Any:  # noqa: ANN401 - an index of NumPy
    """Indices of samples for NumPy. A tuple becomes a list, because NumPy reads a tuple as one index for each axis.
    Raises TypeError for a single integer."""
    if isinstance(indices, int | np.integer):
        raise TypeError(f"indices must be a slice, a list of integers or a mask, received {indices!r}")
    return list(indices) if isinstance(indices, tuple) else indices


class Classified(Protocol):
    """Data with named classes."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...


def names_as_text(classes: Iterable[object], name: str) -> tuple[str, ...]:
    """The names of classes as text. name: the name of the data set, for messages. Raises TypeError for anything that
    is not iterable."""
    if not np.iterable(classes):
        raise TypeError(f"classes of {name!r} must be names, received {classes!r}")
    return tuple(map(str, classes))


def class_indices(data: Classified, classes: Sequence[str]) -> NDArray[np.int64]:
    """The index in `classes` of each class of a data set. Raises as `Dataset.relabeled` does."""
    names, own = [*classes], [*data.classes]
    if names == own:
        return np.arange(len(own))
    missing, unknown = ([repr(name) for name in a if name not in b] for a, b in ((names, own), (own, names)))
    if missing or unknown:
        differences = [
            f"{what} {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
            for what, names in (("lacks", missing), ("has unknown", unknown))
            if names
        ]
        raise ValueError(f"{data.name!r} must have the training data's classes: it {' and '.join(differences)}")
    if twice := [name for name in names if max(names.count(name), own.count(name)) > 1]:
        raise ValueError(f"labels of {data.name!r} are matched by the names of classes, and {twice[0]!r} occurs twice")
    return np.array([names.index(name) for name in own])


def fraction_mask(
    labels: NDArray[np.int64], fraction: float, seed: int, part: str, ignored: int | None = None
) -> NDArray[np.bool_]:
    """A mask of images that has `fraction` of every class; see `Dataset.split`."""
    if not 0 < number("fraction", fraction, -math.inf) < 1:
        raise ValueError(f"fraction must be between 0 and 1, received {fraction}")
    second = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels != ignored]).tolist():
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = random.permutation(len(members), seed=seed, epoch=label & 0xFFFFFFFF, stream=random.DATA)
        second[members[order[: max(count, 0)]]] = True
    if not second.any():
        raise ValueError(
            f"{part} would be empty: at least one class needs two images or more, one of them for training"
        )
    return second
