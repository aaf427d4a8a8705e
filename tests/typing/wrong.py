"""Code that type checkers refuse, at each line that ends in "error"."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuconv as gc
from gpuconv.training import SGD, Callback, Trainer

net = gc.models.build("digits-net")
train, test = gc.data.load("digits")


class WrongHook:
    def on_epoch(self, record: dict[str, Any]) -> None: ...


class WithoutNone:
    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None: ...


class Misspelled:
    def on_epch(self, trainer: Trainer, record: dict[str, Any]) -> None: ...


class WrongOverride(Callback):
    def on_epoch(self, trainer: Any, record: dict[str, Any], more: int) -> None: ...  # error


class NoStep:
    lr = 0.1


class WrongStep:
    def step(self) -> None: ...


class WrongMetric:
    def update(self, scores: NDArray[np.float32]) -> None: ...
    def result(self) -> float:
        return 0.0


def no_gradient(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return 0.0


def of_text(step: str) -> float:
    return float(step)


def text(step: int) -> str:
    return str(step)


gc.Sequnetial()  # error
gc.load(3)  # error
gc.layers.Conv2D(3, 3, paddding=1)  # error
SGD(lrr=1)  # error
Trainer(net, "adam", lrr=1)  # error
Trainer(net, "adam", lr="1e-3")  # error
Trainer("digits-net")  # error
Trainer(net, NoStep())  # error
Trainer(net, WrongStep())  # error
Trainer(net, SGD)  # error
Trainer(net, loss=no_gradient)  # error
Trainer(net, loss=3)  # error
Trainer(net, loss=gc.losses.SVMHinge)  # error
Trainer(net, schedule=of_text)  # error
Trainer(net, schedule=text)  # error
Trainer(net, schedule=0.5)  # error
Trainer(net, metrics=[WrongMetric()])  # error
Trainer(net, metrics=[3])  # error
trainer = Trainer(net, SGD())
trainer.fit(train, epochs=1, callbacks=[WrongHook()])  # error
trainer.fit(train, epochs=1, callbacks=[WithoutNone()])  # error
trainer.fit(train, epochs=1, callbacks=[Misspelled()])  # error
trainer.fit(train, epochs=1, callbacks=[object()])  # error
trainer.fit(train, epochs=1, callbacks=[gc.training.EarlyStopping])  # error
trainer.fit(train, epochs=1, callbacks=WrongHook())  # error
trainer.fit(train, epochs="3")  # error
trainer.fit(train, epoch=3)  # error
trainer.fit(3, epochs=3)  # error
trainer.fit(train, epochs=3, validation=[0.1, None], test=0.1)  # error
gc.evaluate(net, test, los="svm")  # error
gc.evaluate(net, test, loss=no_gradient)  # error
gc.evaluate(net, test, metrics=[WrongMetric()])  # error
gc.evaluate(test, net)  # error
