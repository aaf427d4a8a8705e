"""Brings a user's images into the layout of nets: channels last. Only a PyTorch tensor's channels are moved."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import is_torch
from gpuconv.backends import to_numpy


def lacks_channels(given: tuple[int, ...], shape: tuple[int, ...], rank: int) -> bool:
    """Whether `given` is the shape of gray images, or of one gray image, without a channel axis. shape, rank: as in
    `laid_out`."""
    return len(shape) == 3 and shape[-1] == 1 and len(given) == rank - 1 and given[-2:] == shape[:2]


def laid_out(images: object, shape: tuple[int, ...], rank: int) -> np.ndarray:
    """Images as a NumPy array with channels last. The caller checks the shape of the result.

    shape: of one image, as the net takes it. rank: the expected number of axes: len(shape) for one image, one more for
    a batch. If `shape` is (H, W, C), the channels of a channels-first PyTorch tensor are moved last, and gray pictures
    without a channel axis get one. Raises ValueError with advice for a NumPy array with channels first.
    """
    array = to_numpy(images.detach().cpu() if is_torch(images) else images, "images")
    if len(shape) != 3:
        return array
    if lacks_channels(array.shape, shape, rank):
        return array[..., None]
    channels = shape[-1]
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
