"""A toy run: a net and images that train quickly. The run has state of every kind: that of batch norm, dropout,
augmentation and an optimizer."""

import numpy as np

from gpuconv.backends import to_numpy
from gpuconv.data import Augmentation, Dataset, Loader, Normalization
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, ReLU, Sequential
from gpuconv.training import Trainer


def images(count=22, seed=0):
    """Noise, noise with a bright row, and noise with a bright column: classes that a shift does not change."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, count)
    pixels = draw.integers(0, 120, (count, 6, 5, 1)).astype(np.uint8)
    pixels[labels == 1, 3] += 100
    pixels[labels == 2, :, 2] += 100
    return Dataset(pixels, labels, ["noise", "row", "column"], "lines")


def net(seed=0, filters=4):
    return Sequential(
        [Input((6, 5, 1)), Conv2D(filters, 3, padding=1), BatchNorm(), ReLU(), Flatten(), Dropout(0.2), Linear(3)],
        seed=seed,
    )


def net_without_norm(device="numpy"):
    """A net whose gradients do not depend on how a batch is cut, as it has no batch norm."""
    layers = [Input((6, 5, 1)), Conv2D(4, 3, padding=1), Flatten(), Dropout(0.4), Linear(3)]
    return Sequential(layers, seed=1, device=device)


def loader(data=None, batch_size=5, seed=3, dtype="float32", device="numpy"):
    data = data or images()
    return Loader(
        data,
        batch_size,
        normalization=Normalization.from_dataset(data),
        augmentation=Augmentation(shift=1),
        seed=seed,
        dtype=dtype,
        device=device,
    )


class UserLoader:
    """A loader as a user may write it: with a length and `epoch`, but not of the class Loader."""

    def __init__(self, inner=None):
        self.inner = inner or loader()

    def __len__(self):
        return len(self.inner)

    def epoch(self, epoch, start_batch=0):
        return self.inner.epoch(epoch, start_batch)


def trainer(seed=0, optimizer="adam", lr=0.01, schedule="one-cycle", **options):
    return Trainer(net(seed), optimizer, lr=lr, schedule=schedule, seed=seed, **options)


def held_out(batch_size=4):
    """Nine images that are not in `images()`, in order."""
    normalization = Normalization.from_dataset(images())
    return Loader(images(9, seed=5), batch_size, normalization=normalization, shuffle=False)


STEPS_PER_EPOCH = 5  # 22 images in batches of 5, the last one short


def fit(trainer, **options):
    options = {"epochs": 3, "validation": held_out(), "metrics_every": 2, "progress": False} | options
    return trainer.fit(options.pop("train", None) or loader(), **options)


def same_arrays(one, other):
    """Whether two dictionaries of arrays hold the same bits."""

    def bits(arrays):
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}

    return bits(one) == bits(other)


def weights(trainer):
    """A copy of the arrays that the trainer's net would save."""
    return {name: np.array(to_numpy(value)) for name, value in trainer.net.state_dict().items()}


FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "metrics.csv", "run.json")


def contents(directory):
    """The bytes of each file in FILES, by its name in a run directory."""
    return {name: (directory / name).read_bytes() for name in FILES}


def bits(trainer):
    """The bytes of all arrays that the trainer's net would save."""
    return b"".join(value.tobytes() for value in weights(trainer).values())


class StopAt:
    """Stops a run after a step. With the reason "interrupted", which a signal gives too, no test follows."""

    def __init__(self, step, reason="interrupted"):
        self.step, self.reason = step, reason

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            trainer.stop(self.reason)


class StopAfterOne:
    """Stops a run after its first epoch."""

    def on_epoch(self, trainer, record):
        trainer.stop("enough")


class Remember:
    """Keeps what the net would save after each epoch, by the epoch's number."""

    def __init__(self):
        self.states = {}

    def on_epoch(self, trainer, record):
        self.states[record["epoch"]] = weights(trainer)
