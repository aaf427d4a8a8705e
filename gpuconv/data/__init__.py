"""Images to train on: data sets, their normalisation and augmentation, and the batches made of them."""

from gpuconv.data import cifar10, digits, folder, synthetic
from gpuconv.data.augment import Augmentation
from gpuconv.data.dataset import Dataset
from gpuconv.data.loader import Loader
from gpuconv.data.normalization import Normalization
from gpuconv.data.spec import load

__all__ = [
    "Augmentation",
    "Dataset",
    "Loader",
    "Normalization",
    "cifar10",
    "digits",
    "folder",
    "load",
    "synthetic",
]
