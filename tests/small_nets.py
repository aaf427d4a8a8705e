"""A net that is trained on digits for a second, and one that is not trained."""

import gpuconv as gc
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU


def trained_on_digits(run_dir=None):
    """A net that classifies most digits correctly, and the test set."""
    train, test = gc.data.load("digits")
    net = gc.models.build("seed-net", (8, 8, 1))
    gc.Trainer(net, "adam", lr=3e-3).fit(train.subset(slice(800)), epochs=3, progress=False, run_dir=run_dir)
    return net, test


def untrained():
    return gc.Sequential([Input((4, 4, 3)), Conv2D(2, 3), ReLU(), Flatten(), Linear(5)], seed=3)
