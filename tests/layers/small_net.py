"""A small net with batch norm and a residual block, its values, and images for it."""

import numpy as np

import gpuconv as gc
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential


def net_of(**options):
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(3, 3, padding=1),
            BatchNorm(),
            ReLU(),
            Residual([Conv2D(3, 3, padding=1), ReLU()]),
            MaxPool2D(2),
            Flatten(),
            Linear(5),
        ],
        **options,
    )


def values(net):
    """Copies of the net's arrays on the host."""
    return {key: gc.to_numpy(array).copy() for key, array in net.state_dict().items()}


def data(count=16):
    """Images and labels of three classes."""
    random = np.random.default_rng(0)
    return random.normal(size=(count, 6, 6, 2)).astype("f4"), random.integers(0, 3, count)
