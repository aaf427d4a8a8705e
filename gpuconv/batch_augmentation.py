"""The augmentation of a batch that `gpuconv.ops.load_batch` loads."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from gpuconv.names import lookup

BORDERS = ("zero", "reflect")


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class BatchAugmentation:
    """How `gpuconv.ops.load_batch` changes the images. colors: the arguments brightness, contrast, saturation, hue."""

    flip: bool | str
    shift: int
    border: str
    cutout: int
    resized_crop: float
    colors: tuple[float, float, float, float]


batch_augmentation = functools.lru_cache(maxsize=4096)(BatchAugmentation)


def flip_value(flip: object) -> bool | str:
    """False, True or "alternating"; TypeError and ValueError for anything else."""
    if isinstance(flip, (bool, np.bool_)):
        return bool(flip)
    if not isinstance(flip, str):
        raise TypeError(f"flip must be True, False or 'alternating', received {flip!r}")
    return lookup("flip", flip, {"alternating": "alternating"})
