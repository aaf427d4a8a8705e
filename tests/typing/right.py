"""Code that type checkers accept: calls, and user-defined parts with annotations, most of them without a base class."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

import gpuconv as gc
from gpuconv.training import Callback, EarlyStopping, Trainer

net = gc.models.build("digits-net")
train, test = gc.data.load("digits")

Floats = NDArray[np.float32]


class Watch:
    def on_epoch(self, run: Trainer, epoch_record: dict[str, Any]) -> None: ...


class WatchSteps:
    def on_start(self, trainer: Trainer) -> None: ...
    def on_step(self, trainer: Trainer, record: Mapping[str, float] | None) -> None: ...
    def on_stop(self, trainer: Trainer, reason: str) -> None: ...


class OfCallback(Callback):
    def on_epoch(self, trainer: Any, record: dict[str, Any]) -> None: ...


class Momentum:
    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.velocity: dict[str, Floats] = {}

    def step(self, params: dict[str, Floats], grads: dict[str, Floats]) -> None:
        for name, param in params.items():
            param -= np.float32(self.lr) * grads[name]


class AtRate:
    def step(self, params: Mapping[str, Any], grads: Mapping[str, Any], lr: float) -> None: ...


class WithDefaultRate:
    def step(self, params: Mapping[str, Any], grads: Mapping[str, Any], *, lr: float = 0.1) -> None: ...


def loss(scores: Floats, labels: NDArray[np.int64]) -> tuple[float, Floats]:
    return 0.0, scores


def scaled(scores: Any, labels: Any, grad_scale: Any = 1.0, gamma: float = 2.0) -> tuple[np.float32, Any]:
    return np.float32(0), scores


def falling(step: int) -> np.float32:
    return np.float32(1 / (1 + step))


class Rate:
    def __call__(self, step: int, total: int) -> float:
        return 1 - step / total


class Area:
    name = "area"

    def update(self, scores: Floats, labels: NDArray[np.int64]) -> None: ...
    def result(self) -> float:
        return 0.0


def margin(scores: Floats, labels: NDArray[np.int64]) -> np.floating[Any]:
    return np.mean(scores)


def batches() -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    yield np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int64)


class Items:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> tuple[Floats, int]:
        return np.zeros((8, 8, 1), np.float32), i


options: dict[str, Any] = {"lr": 0.1}
Trainer(net, "adam", **options)
Trainer(net, "sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, loss="svm", schedule="cosine,warmup:5")
Trainer(net, "groups", groups="* -> sgd:lr=0.1")
Trainer(net, Momentum(0.1), loss=loss, schedule=falling, metrics=["top-3", margin, Area()])
Trainer(net, AtRate(), loss=partial(scaled, gamma=1.0), schedule=lambda step: 1 / (1 + step))
Trainer(net, WithDefaultRate(), loss=scaled, schedule=lambda step, total: 1 - step / total)
Trainer(net, gc.training.Adam(), loss=gc.losses.get("softmax", label_smoothing=0.1), schedule=Rate())
Trainer(net, gc.training.Groups(groups="* -> sgd"), schedule=None)
trainer = Trainer(net, "adam", lr=1e-3)
trainer.fit(
    train, epochs=1, callbacks=[Watch(), WatchSteps(), OfCallback(), EarlyStopping(3)], validation=0.1, test=test
)
watchers = [Watch()]
trainer.fit((train.images, train.labels), epochs=1, callbacks=watchers, validation=(test.images, test.labels))
trainer.fit(batches(), epochs=1, steps_per_epoch=3)
trainer.fit(batches, epochs=1, steps_per_epoch=3)
trainer.fit([*batches()], epochs=1)
trainer.fit(Items(), epochs=1)
trainer.fit([(np.zeros((8, 8, 1)), 3)], epochs=1)
torch_set = TensorDataset(torch.zeros(3, 1, 8, 8), torch.zeros(3))
trainer.fit(torch_set, epochs=1)
trainer.fit(DataLoader(torch_set, batch_size=2), epochs=1, validation=DataLoader(torch_set))
measured = gc.data.Normalization.from_dataset(train)
trainer.fit(gc.data.Loader(train, 64, normalization=measured, shuffle=True), epochs=1)
history = trainer.fit((torch.zeros(3, 1, 8, 8), torch.zeros(3)), epochs=1)
print(history[-1]["train_accuracy"])
evaluation = gc.evaluate(net, test, metrics=["confusion", margin], loss=loss)
print(evaluation.accuracy, evaluation.metrics["margin"])
gc.evaluate(net, test, metrics={"m": margin}, loss="svm")
trainer.net.predict(test.images[:3])
net(gc.asarray(np.zeros((1, 8, 8, 1), np.float32)))
