"""Nets for ONNX files, and a comparison of their results."""

from __future__ import annotations

import copy

import numpy as np

from gpuconv.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    HardSwish,
    Input,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
    Upsample,
)

SHAPE = (9, 7, 4)
ROWS = {  # the layers of a net after its input
    "conv": [Conv2D(6, 3, stride=2, padding=((1, 0), (2, 1)), dilation=2, groups=2)],
    "conv-cover": [Conv2D(4, 3, stride=3, fit="cover", bias=False)],
    "pools": [MaxPool2D(3, stride=2, padding=1), AvgPool2D(2, stride=1, padding=(1, 0))],
    "pools-cover": [MaxPool2D(2, fit="cover"), AvgPool2D((2, 3), padding=1, fit="cover", count_include_pad=False)],
    "avg-pool-cover-counts-no-added-cells": [AvgPool2D((4, 3), stride=3, padding=(1, 0), fit="cover")],
    "activations": [GELU(), SiLU(), LeakyReLU(negative_slope=0.2), Tanh(), Sigmoid(), GELU(approximate="tanh"), ReLU()],
    "relu6": [Scale(9.0), ReLU6()],
    "more-activations": [Scale(4.0), ELU(alpha=0.7), HardSwish()],
    "image-norms": [GroupNorm(2, eps=1e-3), LayerNorm(), Conv2D(3, 2), LayerNorm(), Flatten(), LayerNorm(eps=0.1)],
    "upsample": [Upsample((2, 3)), Conv2D(2, 3)],
    "upsample-bilinear": [Upsample((2, 3), "bilinear"), Conv2D(2, 3), Upsample((1, 4), "bilinear")],
    "conv-pool": [Conv2D(3, 2), MaxPool2D(2)],
    "adaptive": [AdaptiveAvgPool2D((3, 1)), Flatten(), Linear(2)],
    "transposed": [
        ConvTranspose2D(
            6, (3, 2), stride=(2, 3), padding=((1, 0), (0, 1)), output_padding=(1, 2), dilation=(1, 2), groups=2
        ),
        ConvTranspose2D(2, 1, bias=False),
    ],
    "branches": [
        Branches(
            [[Conv2D(2, 1), ReLU()], [], [Branches([[Conv2D(3, 3, padding=1)], [Conv2D(3, 1)], [Conv2D(3, 1)]], "add")]]
        ),
        Branches([[Flatten(), Linear(3)], [Flatten()]]),
        Linear(2),
    ],
    "norms": [BatchNorm(), GlobalAvgPool2D(), Flatten(), Linear(3), BatchNorm(eps=0.1)],
    "linear-after-volume": [Conv2D(5, 3), ReLU(), Flatten(), Dropout(0.25), Scale(2.0), Linear(4), Linear(3)],
    "flatten-alone": [Flatten()],
    "norm-after-flatten": [Flatten(), BatchNorm(), Linear(3, bias=False)],
    "residual-after-flatten": [Flatten(), Residual([Linear(9 * 7 * 4)]), Linear(2)],
    "residuals": [Residual([Conv2D(6, 1), BatchNorm()], [Conv2D(6, 1)]), Residual([Sequential([ReLU()])])],
    "nothing": [],
}


def built(row, shape=SHAPE, **options):
    """A net of new layers. All arrays of its batch norms have random values."""
    net = Sequential([Input(shape), *copy.deepcopy(row)], seed=3, **options)
    random = np.random.default_rng(1)
    for layer in net.walk():
        if isinstance(layer, BatchNorm):
            for name in layer.arrays:
                layer.arrays[name] = random.uniform(0.5, 1.5, layer.arrays[name].shape).astype(layer.arrays[name].dtype)
    return net


def expect_close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
