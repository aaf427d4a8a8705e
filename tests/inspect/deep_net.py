"""A net of many kinds of layers, and an image for it."""

from __future__ import annotations

import numpy as np

from gpuconv.layers import (
    GELU,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Input,
    Linear,
    MaxPool2D,
    Residual,
    Sequential,
    Tanh,
)


def deep_net(device="numpy"):
    block = Residual([Conv2D(3, 3, padding=1), BatchNorm(), GELU()], [Conv2D(3, 1)])
    row = [Conv2D(2, 3), Tanh(), block, AvgPool2D(3, stride=2, padding=1), MaxPool2D(2, stride=1)]
    net = Sequential([Input((9, 9, 2)), *row, GlobalAvgPool2D(), Flatten(), Dropout(), Linear(4)], seed=4)
    for vector, value in zip(net["residual1.norm1"].vectors, (1.5, 0.3, 0.2, 2.0)):
        vector[...] = value  # so that the norm is not the identity
    return net.to(device)


DEEP_X = np.random.default_rng(5).normal(size=(1, 9, 9, 2)).astype(np.float32)
