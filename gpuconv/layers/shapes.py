"""Shapes of volumes, without N."""

from __future__ import annotations

import math

from gpuconv.types import Shape


def expect_axes(input_shape: Shape, axes: str) -> None:
    """Raise ValueError unless the input volume has one axis per word of `axes`, such as "H W C"."""
    if len(input_shape) != len(axes.split()):
        hint = "; put Flatten() before" if axes == "features" and len(input_shape) == 3 else ""
        raise ValueError(
            f"the input must have the axes (N, {', '.join(axes.split())}), "
            f"received (N, {', '.join(map(str, input_shape))}){hint}"
        )


def per_channel(input_shape: Shape) -> Shape:
    """The shape (C,) of an array with one value for each channel. Raises ValueError for a volume without axes."""
    if not input_shape:
        raise ValueError("the input must have the axes (N, ..., C), received (N,)")
    return input_shape[-1:]


def volume_size(shape: Shape | None) -> int:
    """How many values a volume of this shape holds; 1 for None, the shape of a layer that is not built."""
    return math.prod(shape or ())
