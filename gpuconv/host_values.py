"""Scalars, indices and labels that the host can read."""

from __future__ import annotations

import numpy as np

from gpuconv.types import Element, Scalar


def value_of(scalar: Scalar) -> Element:
    """The number itself, or the one in an array of one element."""
    return scalar.item() if isinstance(scalar, np.ndarray) else scalar


def expect_within(name: str, values: np.ndarray, count: int, but: int | None = None) -> None:
    """Raise ValueError unless every integer of a host array is in [0, count) or equal to `but`."""
    outside = (values < 0) | (values >= count)
    wrong = np.flatnonzero(outside if but is None else outside & (values != but))
    if wrong.size:
        raise ValueError(f"{name} must lie in [0, {count}), received {values[wrong[0]]} at index {wrong[0]}")


def batch_indices(indices: np.ndarray, start: Scalar, count: int, images: int) -> np.ndarray:
    """indices[start : start + count], for arrays that the host can read. ValueError if the batch does not fit, or an
    index is not in [0, images)."""
    first = int(value_of(start))
    if not 0 <= first <= len(indices) - count:
        raise ValueError(f"indices has {len(indices)} entries; a batch of {count} from {first} on does not fit")
    part = indices[first : first + count]
    expect_within("indices", part, images)
    return part
