"""A net on a GPU that is not the current one: gpuconv's own work, and code of the user's own that it calls."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import convert
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Linear, Sequential
from tests import standin

pytestmark = pytest.mark.usefixtures("untimed")

X = np.random.default_rng(0).normal(size=(20, 5, 5, 2)).astype(np.float32)
LABELS = np.arange(20) % 3


@pytest.fixture
def two_gpus(schedule):
    with standin.installed(("90", "90"), schedule=schedule):
        import cupy

        yield
        assert cupy.cuda.runtime.getDevice() == 0


@dataclass(eq=False)
class CupyLayer(Layer):
    """A user's layer that calls CuPy: it returns copies of what it receives."""

    def forward(self, x, training=False):
        return copied_by_cupy(x)

    def backward(self, dy, *, input_grad=True):
        return copied_by_cupy(dy)


def copied_by_cupy(x):
    if isinstance(x, np.ndarray):
        return x.copy()
    import cupy

    y = cupy.empty(x.shape, x.dtype)
    y[...] = x
    return y


def cupy_loss(scores, labels):
    """A user's loss that calls CuPy."""
    value = gc.losses.get("mse")(scores, copied_by_cupy(scores))[0]
    return value, copied_by_cupy(scores)


class CupyOptimizer:
    """A user's optimizer that calls CuPy."""

    def step(self, params, grads):
        params.update({name: copied_by_cupy(value) for name, value in params.items()})


class CupyCallback(gc.training.Callback):
    def on_step(self, trainer, record):
        for value in trainer.net.params().values():
            copied_by_cupy(value)


def net(*layers):
    return Sequential([Input((5, 5, 2)), Conv2D(4, 3), *layers, Flatten(), Linear(3)])


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("images_on", ["numpy", "cuda:0", "cuda:1"])
def test_images_are_predicted_a_batch_at_a_time(images_on):
    found = net().to("cuda:1").predict(gc.asarray(X, images_on), batch_size=8)
    assert gc.device_of(found) == images_on
    np.testing.assert_allclose(gc.to_numpy(found), net().predict(X), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("two_gpus")
def test_a_net_is_evaluated_on_shifted_and_mirrored_images():
    found, expected = (
        gc.evaluate(each, (X, LABELS), tta="mirror+shift", batch_size=8).loss for each in (net().to("cuda:1"), net())
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copied_and_an_unpickled_net_are_on_the_same_gpu(again):
    given = net().to("cuda:1")
    given.zero_grad()
    found = again(given)
    arrays = [*found.state_dict().values(), *found.grads().values()]
    assert {gc.device_of(array) for array in arrays} == {"cuda:1"} == {found.device}
    np.testing.assert_array_equal(found.predict(X), given.predict(X))


@pytest.mark.usefixtures("two_gpus")
def test_checks_and_conversions_run_there():
    x, labels = gc.asarray(X, "cuda:1"), gc.asarray(LABELS, "cuda:1")
    assert gc.checks.first_loss(net().to("cuda:1"), x, labels).passed
    assert gc.checks.gradient_check(net().to("cuda:1"), samples=2).passed
    linear = convert.conv_to_linear(net().to("cuda:1")["conv1"])
    expected = convert.conv_to_linear(net()["conv1"])
    np.testing.assert_array_equal(gc.to_numpy(linear["weight"]), expected["weight"])


@pytest.mark.kernels
@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("optimizer", "graph"),
    [("sgd:lr=1e-6", False), ("sgd:lr=1e-6", True), (CupyOptimizer(), False)],
    ids=["launches", "graph", "own optimizer"],
)
def test_code_of_the_users_own_runs_with_the_nets_device_as_the_current_one(optimizer, graph):
    images = (np.abs(X) * 50).astype(np.uint8)
    trainer = gc.Trainer(net(CupyLayer()).to("cuda:1"), optimizer, loss=cupy_loss, graph=graph)
    trainer.fit((images, LABELS), epochs=2, batch_size=10, progress=False, callbacks=[CupyCallback()], validation=0.2)
    trainer.step(gc.asarray(X, "cuda:1"), gc.asarray(LABELS, "cuda:1"))
    gc.evaluate(trainer.net, (images, LABELS), loss=cupy_loss)
    assert trainer.net.predict(X, normalize=False).shape == (20, 3)
