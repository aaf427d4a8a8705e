"""Checks of the images and labels that a user gives, and the conversion of labels to NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import INT64_MAX, is_torch
from gpuconv.backends import to_numpy
from gpuconv.dtypes import is_float


def as_targets(labels: object, name: str, count: int, ignored: int | None = None) -> NDArray[Any]:
    """Labels as class numbers, int64 (count,), or as a target for each score, floats (count, ...).

    name: the name of the data, for messages. count: the number of images. ignored: the label of images that do not
    count, which may be negative. Raises as `class_numbers` does, and ValueError for another number of targets.
    """
    if isinstance(labels, (list, tuple)):
        labels = [to_numpy(label, "labels") if is_torch(label) else label for label in labels]
    found = to_numpy(labels, f"labels of {name!r}")
    if not is_float(found.dtype) or found.ndim < 2:
        return class_numbers(found, name, count, ignored)
    if len(found) != count:
        raise ValueError(f"labels of {name!r} must be a row for each of {count} images, received shape {found.shape}")
    return np.ascontiguousarray(found)


def class_numbers(labels: object, name: str, count: int, ignored: int | None = None) -> NDArray[np.int64]:
    """Labels as int64 (count,). Raises TypeError and ValueError for anything but class numbers and `ignored`."""
    found = to_numpy(labels, f"labels of {name!r}")
    if found.shape != (count,):
        hint = "; x.argmax(1) converts one-hot rows" if found.ndim == 2 and found.shape[1] > 1 else ""
        hint = hint or ("; x.ravel() gives one axis" if found.ndim and found.size == count else "")
        if found.ndim > 1 and not is_float(found.dtype):
            hint += "; targets for each score are floats: x.astype('float32')"
        raise ValueError(
            f"labels of {name!r} must be one for each of {count} images, received shape {found.shape}{hint}"
        )
    if found.dtype.kind not in "iu":
        raise TypeError(
            f"labels of {name!r} must be integers (class numbers), received {found.dtype.name}; "
            "targets for each score are floats with an axis for the scores; x[:, None] adds this axis"
        )
    counted = found[found != ignored]
    if len(counted) and int(counted.min()) < 0:
        raise ValueError(f"labels of {name!r} must be 0 or more, received {int(counted.min())}")
    if len(counted) and int(counted.max()) > INT64_MAX:
        raise ValueError(f"labels of {name!r} must be below 2**63, received {int(counted.max())}")
    return found.astype(np.int64)


def expect_pair(name: str, item: object, advice: str = "") -> None:
    """Raise TypeError unless an item of a user's data is (image, label). advice: the end of the message."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        received = f"{len(item)} parts" if isinstance(item, (tuple, list)) else type(item).__name__
        raise TypeError(f"{name} must be (image, label), received {received}{advice}")


def expect_finite(images: np.ndarray, name: str) -> None:
    """Raise ValueError, naming the first image that holds NaN or infinity."""
    for first in range(0, len(images) if is_float(images.dtype) else 0, 64):
        part = images[first : first + 64]
        if not np.isfinite(part).all():
            wrong = first + int(np.argmin(np.isfinite(part).reshape(len(part), -1).all(axis=1)))
            raise ValueError(f"images of {name!r} must be finite: image {wrong} holds NaN or infinity")


def expect_image_dtype(dtype: np.dtype, name: str) -> None:
    """Raise TypeError unless images are uint8 or floats."""
    if dtype != np.uint8 and not is_float(dtype):
        raise TypeError(
            f"images of {name!r} must be uint8 in 0..255, which is normalized, or floats, which are only "
            f"converted to a dtype; received {dtype.name}"
        )
