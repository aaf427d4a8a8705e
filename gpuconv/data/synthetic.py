"""Made-up images of any size, for timing and for trying a net without data."""

from __future__ import annotations

import numpy as np

from gpuconv import random
from gpuconv.arguments import integer
from gpuconv.data.dataset import Dataset
from gpuconv.integers import ceil_div


def load(
    n: int = 1024, *, size: tuple[int, int, int] = (32, 32, 3), classes: int = 10, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """(train, test) of n and max(1, n // 5) images, uint8 (N, H, W, C).

    Each class has a random picture; each image is the mean of its class's picture and random noise. So a net can learn
    the classes, and the test images are unseen. Image i of both sets together, training images first, has class
    i % classes.

    Raises TypeError and ValueError for arguments of other types and ranges.
    """
    n, classes = integer("n", n, 1), integer("classes", classes, 1)
    if not hasattr(size, "__len__"):
        raise TypeError(f"size must be (H, W, C), received {size}")
    if len(size) != 3:
        raise ValueError(f"size must be (H, W, C), received {size}")
    for axis, side in zip("HWC", size):
        integer(f"size {axis}", side, 1)
    test = max(1, n // 5)
    patterns = _bytes((classes, *size), seed, substream=0) // 2
    images = _bytes((n + test, *size), seed, substream=1) // 2
    labels = np.arange(n + test) % classes
    for label in range(classes):
        images[label::classes] += patterns[label]
    names = [f"class {label}" for label in range(classes)]
    spec = f"synthetic:n={n},size={'x'.join(map(str, size))},classes={classes},seed={seed}"
    everything = Dataset(images, labels, names, "synthetic", spec)
    return everything.subset(slice(n)), everything.subset(slice(n, None))


def _bytes(shape: tuple[int, ...], seed: int, substream: int) -> np.ndarray:
    count = int(np.prod(shape))
    words = random.bits(ceil_div(count, 4), seed=seed, stream=random.DATA, substream=substream)
    return words.astype("<u4", copy=False).view(np.uint8)[:count].reshape(shape)
