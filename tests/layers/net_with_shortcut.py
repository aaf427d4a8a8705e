"""A net with a shortcut, batch norm and dropout, and images for it."""

import numpy as np

from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential


def net_of(seed=0, **options):
    return Sequential(
        [
            Input((6, 5, 2)),
            Conv2D(4, 3, padding=1),
            ReLU(),
            MaxPool2D(2),
            Residual([Conv2D(6, 3, padding=1), BatchNorm(), ReLU()], [Conv2D(6, 1)]),
            Dropout(0.3),
            Flatten(),
            Linear(5),
        ],
        seed=seed,
        **options,
    )


def images(count=3, dtype="float32"):
    return np.random.default_rng(11).normal(size=(count, 6, 5, 2)).astype(dtype)
