"""Checks of the images and labels that a user gives, and their conversion to NumPy arrays with channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import INT63
from gpuconv.backends import to_numpy
from gpuconv.dtypes import is_float

if TYPE_CHECKING:
    from torch import Tensor


def is_torch(array: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of PyTorch, or of a class derived from that, such as torchvision's images."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(array).__mro__)


def laid_out(images: object, shape: tuple[int, ...], rank: int) -> np.ndarray:
    """Images as a NumPy array with channels last. The caller checks the shape of the result.

    shape: of one image, as the net takes it. rank: the expected number of axes: len(shape) for one image, one more for
    a batch. If `shape` is (H, W, C), the channels of a channels-first PyTorch tensor are moved last, and gray pictures
    without a channel axis get one. Raises ValueError with advice for a NumPy array with channels first.
    """
    array = to_numpy(images.detach().cpu() if is_torch(images) else images, "images")
    if len(shape) != 3:
        return array
    height, width, channels = shape
    if channels == 1 and array.ndim == rank - 1 and array.shape[-2:] == (height, width):
        return array[..., None]
    if array.ndim == rank >= 3 and array.shape[-3] == channels != array.shape[-1]:
        last = np.moveaxis(array, -3, -1)
        if is_torch(images):
            return last
        if last.shape[-3:] == shape:
            order = (*range(rank - 3), *(axis + rank - 3 for axis in (1, 2, 0)))
            accepted = "(N, H, W, C)" if rank == 4 else "(H, W, C)"
            raise ValueError(
                f"images must have their channels last, {accepted}, received shape {array.shape}; "
                f"x.transpose{order} moves them there"
            )
    return array


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
    if len(counted) and int(counted.max()) > INT63:
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
