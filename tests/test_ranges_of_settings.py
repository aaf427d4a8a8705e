"""Each setting accepts the first and the last value of its range, and refuses the next value in a message that names
the setting."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.data import Augmentation, Dataset, Loader, Normalization, synthetic
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, Scale, Sequential
from gpuconv.losses import SoftmaxCrossEntropy, SVMHinge
from gpuconv.training import LossScale, Trainer, optimizers
from gpuconv.training.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop
from gpuconv.training.schedules import Cosine, MultiStep, OneCycle, Step, Warmup
from gpuconv.training.schedules import Linear as LinearSchedule
from tests import toy_run

LARGEST = 1e300
DATA = Dataset(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, int), ["a"])
NORMALIZATION = Normalization([0], [1])


def fit(**options):
    toy_run.fit(toy_run.trainer(), **{"epochs": 0, "validation": None} | options)


NET = toy_run.net()
REALS = [  # what to call, its option, the first and the last value, and whether the last one is accepted
    *((call, "lr", 0, LARGEST, True) for call in (SGD, Adagrad, RMSprop, Adam, AdamW, Lion, Muon)),
    *((call, "weight_decay", 0, LARGEST, True) for call in (SGD, Adagrad, RMSprop, Adam, AdamW, Lion)),
    *((call, "eps", 0, LARGEST, True) for call in (Adagrad, RMSprop, Adam, AdamW)),
    *((call, name, 0, 1, False) for call in (Adam, AdamW, Lion) for name in ("beta1", "beta2")),
    (SGD, "momentum", 0, 1, True),
    (lambda **option: Muon(nesterov=False, **option), "momentum", 0, 1, True),
    (RMSprop, "alpha", 0, 1, True),
    (lambda **option: Step(3, **option), "gamma", 0, LARGEST, True),
    (lambda **option: MultiStep((3,), **option), "gamma", 0, LARGEST, True),
    (Cosine, "final", 0, 1, True),
    *((OneCycle, name, 0, 1, True) for name in ("peak", "start", "final")),
    (lambda **option: Warmup(*option.values()), "the length of a warm-up", 0, LARGEST, True),
    (lambda **option: MultiStep(tuple(option.values())), "a milestone", 0, LARGEST, True),
    (LossScale, "growth", 1, LARGEST, True),
    (SoftmaxCrossEntropy, "label_smoothing", 0, 1, True),
    (SVMHinge, "delta", 0, LARGEST, True),
    (BatchNorm, "momentum", 0, 1, True),
    (BatchNorm, "eps", 0, LARGEST, True),
    (Dropout, "p", 0, 1, False),
    (Scale, "factor", -LARGEST, LARGEST, True),
]
ABOVE_ZERO = [  # what to call, and words of the message
    (lambda value: Step(value), "every|above 0"),
    (lambda value: LinearSchedule(value), "linear schedule"),
    (lambda value: LossScale(start=value), "start"),
    (lambda value: LossScale(backoff=value), "backoff"),
]
INTEGERS = [  # what to call, its option, the first and the last value (None: there is no last)
    (Muon, "newton_schulz", 0, 100),
    (LossScale, "interval", 1, None),
    (Augmentation, "shift", 0, None),
    (Augmentation, "cutout", 0, None),
    (synthetic.load, "n", 1, None),
    (synthetic.load, "classes", 1, None),
    (lambda size: synthetic.load(2, size=(size, 1, 1)), "size", 1, None),
    (lambda size: synthetic.load(2, size=(1, 1, size)), "size", 1, None),
    (lambda batch_size: Loader(DATA, batch_size, normalization=NORMALIZATION), "batch_size", 1, None),
    (lambda seed: Loader(DATA, 1, normalization=NORMALIZATION, seed=seed), "seed", 0, 2**64 - 1),
    (lambda epoch: Loader(DATA, 2, normalization=NORMALIZATION).epoch(epoch), "epoch", 0, None),
    (lambda start_batch: Loader(DATA, 2, normalization=NORMALIZATION).epoch(0, start_batch), "start_batch", 0, 2),
    (lambda out_channels: Conv2D(out_channels, 3), "out_channels", 1, None),
    *(
        (lambda name=name, **option: Conv2D(2, **{"kernel_size": 3} | option), name, 1, None)
        for name in ("groups", "kernel_size", "stride", "dilation")
    ),
    (lambda out_features: Linear(out_features), "out_features", 1, None),
    (lambda shape: Input((4, shape, 1)), "shape", 1, None),
    (lambda input_shape: Sequential([Flatten()]).build((input_shape,)), "input_shape", 1, None),
    (lambda batch_size: NET.predict(np.zeros((2, 6, 5, 1), np.float32), batch_size=batch_size), "batch_size", 1, None),
    (lambda epochs: fit(epochs=epochs), "epochs", 0, None),
    (lambda metrics_every: fit(metrics_every=metrics_every), "metrics_every", 1, None),
    (lambda checkpoint_every: fit(checkpoint_every=checkpoint_every), "checkpoint_every", 1, None),
    (lambda batch_size: fit(train=toy_run.images(), batch_size=batch_size), "batch_size", 1, None),
    (lambda seed: Trainer(toy_run.net(), seed=seed), "seed", 0, 2**64 - 1),
]


def test_real_numbers_are_accepted_up_to_the_ends_of_their_ranges():
    for call, name, first, last, last_is_accepted in REALS:
        call(**{name: first})
        largest = last if last_is_accepted else np.nextafter(last, 0)
        call(**{name: largest})
        below = [np.nextafter(first, -np.inf)] if first > -LARGEST else []
        above = [np.nextafter(last, np.inf) if last_is_accepted else last] if last < LARGEST else []
        for value in (np.inf, np.nan, *below, *above):
            with pytest.raises(ValueError, match=name):
                call(**{name: value})
        for no_number in ("1",) if name == "a milestone" else ("1", None, [1]):
            with pytest.raises(TypeError, match=f"{name} must be a number"):
                call(**{name: no_number})


def test_numbers_that_must_be_above_zero_refuse_zero():
    for call, name in ABOVE_ZERO:
        call(np.nextafter(0, 1))
        for value in (0, -1, np.nan, np.inf):
            with pytest.raises(ValueError, match=name):
                call(value)


def test_integers_are_accepted_up_to_the_ends_of_their_ranges():
    for call, name, first, last in INTEGERS:
        call(**{name: first})
        if last is not None:
            call(**{name: last})
        for value in (first - 1, *([last + 1] if last is not None else [])):
            with pytest.raises(ValueError, match=name):
                call(**{name: value})
        with pytest.raises(TypeError, match=f"{name}.* must be an? "):
            call(**{name: 1.5})


def test_the_largest_float32_is_the_largest_accepted_rate():
    largest = float(np.finfo(np.float32).max)
    params = {"w": np.zeros((2, 2), np.float32)}
    for text in ("sgd", "* -> sgd:lr=1"):
        optimizers.get(text, lr=largest).build(params)
        with pytest.raises(ValueError, match="that float32 can hold"):
            optimizers.get(text, lr=np.nextafter(largest, np.inf).item()).build(params)
