"""A training step does not access the host, and a planted access is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpuconv import asarray, backends, models, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.data import Loader, Normalization
from gpuconv.layers import (
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Upsample,
)
from gpuconv.training import Trainer, UncapturedWarning
from gpuconv.training.running_metrics import Totals
from tests import toy_run

DEVICE = "emulated"
NET = Sequential(
    [
        Input((6, 5, 1)),
        Conv2D(4, 3, padding=1),
        Residual([Conv2D(4, 3, padding=1), BatchNorm(), ReLU()]),
        Branches(
            [
                [],
                [Conv2D(2, 3, padding=1)],
                [ConvTranspose2D(3, 1), GroupNorm(3), LayerNorm()],
                [Upsample((1, 2)), Upsample((2, 1), "bilinear"), MaxPool2D(2)],
            ]
        ),
        ReLU(),
        Flatten(),
        Dropout(0.2),
        Linear(3),
    ]
)
OPTIMIZERS = ["sgd", "sgd:momentum=0.9", "adagrad", "rmsprop", "adam", "adamw", "lion", "filters -> muon; * -> sgd"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_a_step_does_not_access_the_host(captures, optimizer, loss):
    net = Sequential.from_config(NET.config()).to(DEVICE)
    fit_without_warnings(Trainer(net, optimizer, loss=loss, graph=True))
    assert captures["replays"] == 2


@pytest.mark.parametrize("name", ["seed-net", "digits-net"])
def test_a_step_of_a_model_does_not_access_the_host(captures, name):
    fit_without_warnings(Trainer(models.build(name, (8, 8, 1), 3).to(DEVICE), graph=True))
    assert captures["replays"] == 2


def fit_without_warnings(trained):
    shape = trained.net.input_shape
    data = toy_run.images(6)
    data = type(data)(np.resize(data.images, (6, *shape)), data.labels, data.classes, data.name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.fit(
            Loader(data, 2, normalization=Normalization.from_dataset(data), device=DEVICE), epochs=1, progress=False
        )


HOST_ACCESSES = {  # name in the error message: a function that accesses the host
    "numpy.add": lambda x: x + 1,
    "numpy.sum": lambda x: np.sum(x),
    "copy": lambda x: x.copy(),
    "fill": lambda x: x.fill(0),
    "setfield": lambda x: x.setfield(0, np.float32),
    "__getitem__": lambda x: x[0, 0],
    "__float__": lambda x: float(x[0, :1].reshape(())),
    "__setitem__": lambda x: x.__setitem__(0, 1),
    "reshape": lambda x: x.T.reshape(-1),
    "view": lambda x: to_numpy(x),
    "asarray": lambda x: asarray(np.zeros(3), DEVICE),
    "zeros": lambda x: backends.zeros((3,), np.float32, DEVICE),
    "synchronize": lambda x: backends.synchronize(DEVICE),
}


@pytest.mark.parametrize("named", HOST_ACCESSES)
def test_a_planted_host_access_is_named(named):
    touch = HOST_ACCESSES[named]
    x = asarray(np.ones((2, 3), np.float32), DEVICE)
    touch(x)  # allowed outside of `device_only`
    with emulator.device_only(), pytest.raises(emulator.HostAccessError, match=named):
        touch(x)
    with emulator.device_only():  # these do not access memory
        x[1:, ::2].T.view(np.uint32)
        x.reshape(3, 2)
        backends.empty((2,), np.float32, DEVICE)


def test_a_step_with_a_planted_host_access_is_not_captured():
    trained = Trainer(toy_run.net().to(DEVICE), "adam", graph=True)
    inner = trained.loss
    trained.loss = lambda scores, labels: inner(scores * 1, labels)
    trained.loss.__name__ = "touching"
    with pytest.warns(UncapturedWarning, match=r"HostAccessError: .*numpy\.multiply"):
        toy_run.fit(trained, train=toy_run.loader(device=DEVICE), validation=None)


def test_a_step_reads_nothing_back_from_the_device(monkeypatch):
    """A step that waited for the device could not be captured."""
    trainer = toy_run.trainer()
    x, y = next(iter(toy_run.loader().epoch(0)))
    trainer.optimizer.advance()

    def refuse(*_):
        raise AssertionError("a step read from the device")

    monkeypatch.setattr(backends, "to_numpy", refuse)
    monkeypatch.setattr(Totals, "read", refuse)
    trainer.step(x, y)
