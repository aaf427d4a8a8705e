"""Handwritten digits: 1,797 images of 8x8, shipped with the package.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, CC BY 4.0; see
digits.md next to this file.
"""

from __future__ import annotations

import numpy as np

from gpuconv.data.dataset import Dataset

TRAIN = 1437  # images; the others are for testing


def load() -> tuple[Dataset, Dataset]:
    """(train, test): the first 1,437 images and the last 360. Most of the test images were written by other people than
    the training images.

    Images are uint8 (N, 8, 8, 1). For each pixel the file holds v, the number of points of a 4x4 block that were ink
    (0 to 16). The pixel's value is 255 * v // 16, from which v can be recovered.
    """
    from importlib import resources

    with resources.files("gpuconv.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        ink, labels = stored["ink"], stored["labels"]
    images = (ink.astype(np.uint16) * 255 // 16).astype(np.uint8)[..., None]
    everything = Dataset(images, labels, [str(digit) for digit in range(10)], "digits", "digits")
    return everything.subset(slice(TRAIN)), everything.subset(slice(TRAIN, None))
