"""Samples of ten small images, and samples that record what is read."""

from __future__ import annotations

import numpy as np

from gpuconv.data import Samples
from gpuconv.data.samples import ArraySamples

IMAGES = np.arange(10 * 2 * 3 * 3).astype(np.uint8).reshape(10, 2, 3, 3)
LABELS = np.arange(10) % 3


class Numbered(Samples):
    """Images of one pixel, whose value is the sample's number modulo 256. reads: the indices of all reads."""

    def __init__(self, count, **options):
        super().__init__(**{"name": "numbered", "image_shape": (1, 1, 1), "dtype": np.dtype(np.uint8)} | options)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "reads", [])

    def __len__(self):
        return self.count

    def read(self, indices):
        self.reads.append(np.array(indices))
        return (indices % 256).astype(np.uint8).reshape(-1, 1, 1, 1), np.zeros(len(indices), np.int64)


def of_array(images=IMAGES, labels=LABELS):
    return ArraySamples(
        name="array", image_shape=images.shape[1:], dtype=images.dtype, labels=labels, images=images, classes="abc"
    )
