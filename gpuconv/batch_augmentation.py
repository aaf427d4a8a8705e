"""The augmentation of a batch that `gpuconv.ops.load_batch` loads."""

from __future__ import annotations

import functools
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class BatchAugmentation:
    """How `gpuconv.ops.load_batch` changes the images; colors: its brightness, contrast, saturation and hue."""

    flip: bool | str
    shift: int
    border: str
    cutout: int
    resized_crop: float
    colors: tuple[float, float, float, float]


batch_augmentation = functools.lru_cache(maxsize=4096)(BatchAugmentation)
