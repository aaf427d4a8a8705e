"""Test-time augmentation: the scores of an image averaged over its mirrored and shifted views."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import starmap

from gpuconv import backends, ops
from gpuconv.layers import Layer
from gpuconv.types import Array

TTA = {"none": 1, "mirror": 2, "shift": 3, "mirror+shift": 6}  # the number of views of each test-time augmentation


def averaged_scores(net: Layer, x: Array, tta: str = "none") -> Array:
    """The weighted mean of a net's scores over the `views` of a batch. x: (N, H, W, C). Returns (N, classes)."""

    def weighted(weight: float, view: Array) -> Array:
        scores = net.infer(view)
        return scores if weight == 1 else ops.scale(scores, factor=weight)

    return reduce(ops.add, starmap(weighted, views(x, tta)))


def views(x: Array, tta: str) -> Iterator[tuple[float, Array]]:
    """(weight, view) for each view of a batch in a test-time augmentation: the batch itself, or a changed copy. The
    weights add up to 1.

    "mirror": the batch and its mirror image, each with weight 1/2. "shift": the batch (1/2), and the batch shifted by
    one pixel up and left (1/4) and down and right (1/4), with reflected borders. "mirror+shift": these three views,
    each also mirrored, with half the weights: the six views of airbench (Jordan 2024, arXiv:2404.00498).
    """
    expect_views(tta, x.shape[1:])
    moves = ((0.5, 0), (0.25, 1), (0.25, -1)) if "shift" in tta else ((1.0, 0),)
    for mirrored in (False, True) if "mirror" in tta else (False,):
        for share, move in moves:
            view = x if not (mirrored or move) else _shifted(x[:, :, ::-1] if mirrored else x, move)
            yield share * (0.5 if "mirror" in tta else 1.0), view


def expect_views(tta: str, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError for images that are not (H, W, C) or too small for the `views` of a test-time augmentation."""
    if tta != "none" and len(image_shape) != 3:
        raise ValueError(f"tta {tta} needs images (H, W, C), received {image_shape}")
    if "shift" in tta and min(image_shape[:2]) < 2:
        raise ValueError(f"tta {tta} needs images with sides of at least 2 pixels, received {image_shape}")


def _shifted(x: Array, move: int) -> Array:
    """A contiguous copy of x shifted down and right by `move` (-1, 0 or 1), with reflected borders."""
    rows, columns = (_reflected(size, move) for size in x.shape[1:3])
    moved = backends.zeros(x.shape, x.dtype, backends.device_of(x))
    for to_rows, from_rows in rows:
        for to_columns, from_columns in columns:
            backends.assign(moved[:, to_rows, to_columns], x[:, from_rows, from_columns])
    return moved


def _reflected(size: int, move: int) -> list[tuple[slice, slice]]:
    """The (to, from) slices of one axis: a pair for the shifted values, and a pair for the value that the reflection
    fills in. If there is no shift, one pair for the whole axis."""
    if move == 0:
        return [(slice(None), slice(None))]
    if move > 0:
        return [(slice(1, None), slice(size - 1)), (slice(1), slice(1, 2))]
    return [(slice(size - 1), slice(1, None)), (slice(size - 1, None), slice(size - 2, size - 1))]
