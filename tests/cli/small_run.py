"""The options of runs that take seconds, and functions that train with them and read the output."""

import numpy as np

from gpuconv.cli import main

DATA = "synthetic:n=20,size=9x7x3,classes=4"
CHOSEN = [  # settings other than the defaults
    "--data",
    DATA,
    "--model",
    "seed-net",
    "--seed",
    "3",
    "--epochs",
    "2",
    "--batch-size",
    "7",
    "--lr",
    "0.25",
    "--optimizer",
    "adam:beta1=0.5",
    "--schedule",
    "cosine",
    "--augment",
    "flip,shift:1",
    "--loss",
    "softmax:label_smoothing=0.2",
    "--device",
    "numpy",
]
TINY_DATA = "synthetic:n=96,size=9x7x3,classes=4"
TINY_RUN = ["--data", TINY_DATA, "--model", "seed-net", "--batch-size", "32", "--device", "numpy"]
SMALL_BATCHES = [  # 16 steps an epoch
    "--data",
    "synthetic:n=64,size=6x6x1,classes=3",
    "--model",
    "seed-net",
    "--batch-size",
    "4",
    "--device",
    "numpy",
]


def train(*options):
    """Run gpuconv train with TINY_RUN and further options; returns the exit status."""
    return main(["train", *TINY_RUN, *map(str, options)])


def last_line(capsys):
    return capsys.readouterr().out.rstrip("\n").rpartition("\n")[2]


def weights(path):
    """The arrays of a saved net, a checkpoint or a run."""
    from gpuconv import load

    return {name: np.array(value) for name, value in load(path).state_dict().items()}
