"""Checks that the norms share."""

from __future__ import annotations

import numpy as np

from gpuconv.dtypes import accumulation_dtype
from gpuconv.ops.expect import expect_any_float, expect_shape
from gpuconv.problems import channels_first
from gpuconv.types import Array, Shape


def expect_channel_vectors(x: Array, channels: int, **vectors: Array | None) -> None:
    """Raise unless each vector that is not None has shape (C,) and x's accumulation dtype."""
    expected = accumulation_dtype(x.dtype)
    for name, vector in vectors.items():
        if vector is None:
            continue
        fits_channels_first = x.ndim == 4 and vector.shape == x.shape[1:2]  # it would fit (N, C, H, W)
        if fits_channels_first and vector.shape != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},) (one value for each channel), received {vector.shape}"
                f"{channels_first('x')}"
            )
        expect_shape(name, vector, (channels,), "one value for each channel")
        if vector.dtype != expected:
            raise TypeError(f"{name} must be {expected.name} for {x.dtype.name} data, received {vector.dtype.name}")


def expect_addend(addend: Array | None, shape: Shape, dtype: np.dtype) -> None:
    """Raise unless `addend`, if given, has the shape and dtype of the output of a batch norm."""
    if addend is not None:
        expect_any_float("addend", addend, 2)
        expect_shape("addend", addend, shape, "the shape of the norm's output")
        if addend.dtype != dtype:
            raise TypeError(
                f"addend must have the dtype of the norm's output, {dtype.name}, received {addend.dtype.name}"
            )
