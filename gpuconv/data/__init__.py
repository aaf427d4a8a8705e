"""Data sets of images, normalization, augmentation, and batches."""

import sys

from gpuconv.data import cifar10, digits, folder, synthetic
from gpuconv.data.augment import Augmentation
from gpuconv.data.dataset import Dataset
from gpuconv.data.from_spec import load
from gpuconv.data.loader import Loader
from gpuconv.data.samples import Samples
from gpuconv.data.stream_loader import StreamLoader
from gpuconv.data.user_batches import Batches
from gpuconv.images import image_file, normalization
from gpuconv.images.normalization import Normalization

__all__ = [
    "Augmentation",
    "Batches",
    "Dataset",
    "Loader",
    "Normalization",
    "Samples",
    "StreamLoader",
    "cifar10",
    "digits",
    "folder",
    "load",
    "synthetic",
]

# The former names of two modules; a pickled Normalization names the second.
sys.modules |= {f"{__name__}.image": image_file, f"{__name__}.normalization": normalization}
