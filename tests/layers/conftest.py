"""A net with images for it, and the kernels that a test launches."""

import numpy as np
import pytest

from gpuconv.backends.cuda.emulator.array import EmulatedArray
from gpuconv.backends.cuda.runtime.kernel import Kernel
from gpuconv.layers import Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that are launched, and "assign" for each volume that is copied without a kernel."""
    names, launch, assign = [], Kernel.__call__, EmulatedArray.__setitem__

    def launched(self, *arguments, **options):
        names.append(self.name)
        launch(self, *arguments, **options)

    def assigned(self, key, value):
        if getattr(value, "ndim", 0) > 1:
            names.append("assign")
        assign(self, key, value)

    monkeypatch.setattr(Kernel, "__call__", launched)
    monkeypatch.setattr(EmulatedArray, "__setitem__", assigned)
    return names


@pytest.fixture
def net():
    """A net with layers inside a residual block."""
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(3, 3, padding=1),
            ReLU(),
            Residual([Conv2D(3, 3, padding=1)], [Conv2D(3, 1)]),
            MaxPool2D(2),
            Dropout(0.5),
            Flatten(),
            Linear(5),
        ]
    )


@pytest.fixture
def x():
    """Four images for the fixture `net`."""
    return np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("f4")
