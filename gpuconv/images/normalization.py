"""Normalization of uint8 images to zero mean and unit variance."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuconv import ops
from gpuconv.backends import to_numpy
from gpuconv.dtypes import is_float
from gpuconv.names import lookup


class MeasurableData(Protocol):
    """A data set whose statistics can be measured."""

    @property
    def raw(self) -> bool: ...
    def measured(self) -> NDArray[np.uint8]: ...


def looks_unnormalized(images: np.ndarray) -> bool:
    """Whether float `images` look like pixels that are not normalized: none is negative, and the largest is at most 1,
    as in [0, 1], or above 10, as in [0, 255]."""
    return bool(images.size) and images.min() >= 0 and (images.max() > 10 or images.max() <= 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Normalization:
    """x = (pixel - mean) * (1 / std), in float32.

    Args:
        mean, std: float32 (C,) or (H, W, C), in pixel units.

    Raises:
        TypeError: An argument does not hold numbers.
        ValueError: An argument has another shape or is not finite, or std is not positive.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = to_numpy(getattr(self, name), name)
            if given.dtype.kind not in "iu" and not is_float(given.dtype):
                raise TypeError(f"{name} must hold numbers, received {given.dtype.name}")
            with np.errstate(over="ignore"):  # infinity is refused below
                values = given.astype(np.float32)
            if values.ndim not in (1, 3):
                raise ValueError(f"{name} must have shape (C,) or (H, W, C), received {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite, received {values}")
            object.__setattr__(self, name, values)
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, received {self.std}")

    @classmethod
    def from_dataset(cls, dataset: MeasurableData, kind: str = "channel") -> Normalization:
        """The normalization by the statistics of a training set, or of the images in `Samples.measured()`.

        Args:
            dataset: The training set; the test set must stay unseen.
            kind: "channel" subtracts each channel's mean, "image" the mean image; both divide by each channel's
                standard deviation around the subtracted values (by 1 for a constant channel). The sums are exact
                integers, so every machine gets the same numbers.

        Raises:
            TypeError: `dataset` is no data set.
            ValueError: Another `kind`, or images that are not uint8.
        """
        if not hasattr(dataset, "measured"):
            raise TypeError(
                f"dataset must be a gpuconv.data.Dataset or Samples, received {type(dataset).__name__}; from_images "
                "takes images"
            )
        return cls.from_images(dataset.measured(), kind)

    @classmethod
    def measured(cls, data: MeasurableData | np.ndarray) -> Normalization | None:
        """The normalization by the statistics of `data`, a data set or images (N, H, W, C); None for float images."""
        if isinstance(data, np.ndarray):
            return cls.from_images(data) if data.dtype == np.uint8 else None
        return cls.from_dataset(data) if data.raw else None

    @classmethod
    def from_images(cls, images: NDArray[np.uint8], kind: str = "channel") -> Normalization:
        """As `Normalization.from_dataset`, for uint8 `images` (N, H, W, C). Raises ValueError for other images."""
        images = to_numpy(images, "images")
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ValueError(
                f"a normalization is computed from uint8 images (N, H, W, C), received {images.dtype.name} of shape "
                f"{images.shape}"
            )
        axes = lookup("normalization", kind, {"channel": (0, 1, 2), "image": (0,)})
        total = images.sum(axis=axes, dtype=np.int64)
        count = math.prod(images.shape[axis] for axis in axes)
        totals = total.reshape(-1, total.shape[-1])  # (means per channel, channels)
        variance = []
        for squares, sums in zip(_squares(images), totals.T):
            # sum of (pixel - its mean)^2 = sum of pixel^2 - sum over means of (sum^2 / count)
            explained = sum(int(value) ** 2 for value in sums)
            variance.append((squares * count - explained) / (count * count * len(totals)))
        std = np.sqrt(variance)
        return cls(total / count, np.where(std > 0, std, 1.0))

    lacks = staticmethod(looks_unnormalized)  # the former name

    def __call__(self, images: NDArray[np.uint8], dtype: str | np.dtype | type[object] = "float32") -> np.ndarray:
        """Normalize uint8 images (N, H, W, C). The bits are those of a `Loader`'s batch without augmentation."""
        images = to_numpy(images, "images")
        everything = np.arange(len(np.atleast_1d(images)))
        batch, _ = ops.load_batch(images, everything, everything, mean=self.mean, std=self.std, dtype=dtype)
        return np.asarray(batch)


def _squares(images: NDArray[np.uint8]) -> list[int]:
    """The exact sum of pixel^2 of each channel, computed for a few images at a time to limit the memory of the squares,
    which are wider integers."""
    total = np.zeros(images.shape[-1], np.int64)
    step = max(1, (1 << 22) // images[0].size)
    for start in range(0, len(images), step):
        total += np.square(images[start : start + step], dtype=np.int32).sum(axis=(0, 1, 2), dtype=np.int64)
    return [int(value) for value in total]
