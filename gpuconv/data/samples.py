"""Labeled images that are read when a batch needs them: arrays, arrays in files, users' objects."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuconv.backends import to_numpy
from gpuconv.data.dataset import as_index, fraction_mask, names_as_text
from gpuconv.data.expect import as_targets, expect_image_dtype, expect_pair
from gpuconv.dtypes import as_numeric, is_float
from gpuconv.images.layout import laid_out

MEASURED = 4096  # at most this many images are read to compute the normalization


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """The base class: samples 0 to len - 1, each an image and its label.

    Args:
        name: The name of the data, for messages.
        image_shape: The shape of one image, (H, W, C) for pictures.
        dtype: uint8, which is normalized, or a float dtype, which is passed to the net unchanged.
        labels: int64 (N,), or floats (N, ...), or None if a label is known only when its sample is read.
        classes: The names of the classes, or empty.
        workers: The number of threads that may read at the same time.
        spec, ignored: As in `Dataset`.

    Raises TypeError for another dtype, and for classes that are not names.
    """

    name: str
    image_shape: tuple[int, ...]
    dtype: np.dtype
    labels: NDArray[Any] | None = None
    classes: Sequence[str] = ()
    workers: int = 1
    spec: str = ""
    ignored: int | None = None

    def __post_init__(self) -> None:
        dtype = as_numeric(f"images of {self.name!r}", self.dtype)
        expect_image_dtype(dtype, self.name)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "classes", names_as_text(self.classes, self.name))
        if self.labels is not None:
            object.__setattr__(self, "labels", to_numpy(self.labels, f"labels of {self.name!r}"))

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[Any]]:
        """The images, (n, *image_shape), and labels, (n,) or (n, ...), of the samples `indices`, int64 (n,)."""
        raise NotImplementedError

    def checksum(self) -> str | None:
        """A checksum that distinguishes this data from other data, or None."""
        return None

    @property
    def raw(self) -> bool:
        """Whether the images are uint8, which still have to be normalized."""
        return self.dtype == np.uint8

    def first(self, count: int) -> np.ndarray:
        """The first `count` images."""
        return read_checked(self, np.arange(min(count, len(self))))[0]

    def measured(self) -> NDArray[np.uint8]:
        """The images from which the normalization is computed: at most MEASURED of them, evenly spaced."""
        return read_checked(self, np.linspace(0, len(self) - 1, min(len(self), MEASURED)).astype(np.int64))[0]

    def subset(self, indices: slice | Sequence[int] | np.ndarray) -> Samples:
        """The samples at `indices`: a slice, integers or a mask."""
        chosen = np.arange(len(self))[as_index(indices)]
        labels = None if self.labels is None else self.labels[chosen]
        shared = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Samples)}
        return Subset(**(shared | {"labels": labels}), parent=self, indices=chosen)

    def split(self, fraction: float, *, seed: int = 0, what: str = "test") -> tuple[Samples, Samples]:
        """As in `Dataset.split`; treats all samples as one class if labels are not one integer each, or known only when
        a sample is read."""
        known = self.labels
        if known is not None and known.ndim == 1 and known.dtype.kind in "iu":
            labels, ignored = known, self.ignored
        else:
            labels, ignored = np.zeros(len(self), np.int64), None
        second = fraction_mask(labels, fraction, seed, f"the {what} part of {self.name!r}", ignored)
        return self.subset(~second), self.subset(second)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Subset(Samples):
    """Some samples of another set, its `parent`."""

    parent: Samples
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[Any]]:
        return self.parent.read(self.indices[indices])

    def checksum(self) -> str | None:
        parent = self.parent.checksum()
        if parent is None:
            return None
        try:
            start = int(parent, 16)  # as gpuconv's own; stored runs compare the result
        except ValueError:
            start = zlib.crc32(parent.encode("utf-8", "surrogateescape"))
        return f"{zlib.crc32(self.indices.tobytes(), start):08x}"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ArraySamples(Samples):
    """The rows of an array, which may lie in a file (np.load(..., mmap_mode="r"))."""

    images: np.ndarray
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[Any]]:
        return self.images[indices].reshape(len(indices), *self.image_shape), self.labels[indices]

    def checksum(self) -> str:
        """A checksum of images and labels, in their order. If the images are a memory-mapped file, its name, size and
        modification time stand for them; if they are a part of one, the part's place in the file is added."""
        if (opened := memory_mapped(self.images)) is None:
            images = zlib.crc32(np.ascontiguousarray(self.images).view(np.uint8).data)
        else:
            file = str(opened.filename)
            status, start = os.stat(file), self.images.ctypes.data - opened.ctypes.data
            text = f"{os.path.basename(file)} {status.st_size} {status.st_mtime_ns}"
            if start or self.images.size < opened.size or opened.offset + opened.nbytes < status.st_size:
                text += f" {opened.offset + start} {self.images.shape} {self.images.strides}"
            images = zlib.crc32(text.encode())
        return f"{zlib.crc32(self.labels.view(np.uint8).data, images):08x}"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MapSamples(Samples):
    """An object with `__len__` and `__getitem__` that returns (image, label): a PyTorch Dataset, a list of pairs."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[Any]]:
        pairs = [self.source[int(index)] for index in indices]
        for index, pair in zip(indices, pairs):
            expect_pair(f"{self.name}[{index}]", pair)
        images = [laid_out(image, self.image_shape, rank=len(self.image_shape)) for image, _ in pairs]
        for index, image in zip(indices, images):
            if image.shape != self.image_shape or image.dtype != self.dtype:
                raise ValueError(
                    f"image {index} of {self.name!r} must be {np.dtype(self.dtype).name} of shape {self.image_shape} "
                    f"like the first one, received {image.dtype.name} of shape {image.shape}"
                )
        return np.stack(images), as_targets([label for _, label in pairs], self.name, len(pairs), self.ignored)


def read_checked(samples: Samples, indices: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[Any]]:
    """What `samples.read` returns for the indices, as arrays. Raises TypeError unless it returns two values, and
    ValueError for arrays that do not fit the indices, the shape or the dtype of the samples."""
    while isinstance(samples, Subset):  # its `read` is that of the parent, which the errors name
        indices, samples = samples.indices[indices], samples.parent
    found, what = samples.read(indices), f"{type(samples).__name__}.read must return"
    if not isinstance(found, tuple | list) or len(found) != 2:
        returned = f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
        raise TypeError(f"{what} (images, labels), returned {returned}")
    images, labels = (to_numpy(part, f"{name} of {samples.name!r}") for part, name in zip(found, ("images", "labels")))
    shape, kind = (len(indices), *samples.image_shape), "uint8" if samples.raw else "floats"
    if images.shape != shape or not (images.dtype == np.uint8 if samples.raw else is_float(images.dtype)):
        raise ValueError(f"{what} images of shape {shape} in {kind}, returned {images.shape} in {images.dtype.name}")
    if labels.shape[:1] != shape[:1]:
        raise ValueError(f"{what} a label for each of {shape[0]} images, returned labels of shape {labels.shape}")
    return images, labels.astype(np.int64, copy=False) if labels.dtype.kind in "iu" else labels


def memory_mapped(array: object) -> np.memmap | None:
    """The whole array that was opened from a file, if `array` is this array or a view of it; else None."""
    opened = None
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array.filename is not None:
            opened = array
        array = array.base
    return opened
