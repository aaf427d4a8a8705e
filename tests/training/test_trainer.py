"""The training loop: what it learns, the same bits in every run, and epochs over several calls of fit."""

import math

import numpy as np
import pytest

from gpuconv import losses, to_numpy
from gpuconv.layers import Linear
from gpuconv.training import DivergedError, Trainer
from tests import toy_run
from tests.devices import kernel_devices


def test_a_net_overfits_20_samples():
    data = toy_run.images(20)
    trainer = Trainer(toy_run.net(), "adam", lr=0.01)
    history = trainer.fit(data, epochs=40, batch_size=10, progress=False)
    assert history[-1]["train_accuracy"] == 1
    assert history[-1]["train_loss"] < 0.1 * history[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd:momentum=0.9,nesterov=true", "adagrad", "rmsprop", "adam", "adamw", "lion"])
@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_optimizers_learn_with_softmax_and_svm(optimizer, loss):
    history = toy_run.fit(toy_run.trainer(optimizer=optimizer, lr=0.03, loss=loss), epochs=4)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_two_runs_give_the_same_bits():
    one, other = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(one)
    toy_run.fit(other)
    assert one.records == other.records
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())
    third = toy_run.trainer(seed=1)
    toy_run.fit(third)
    assert not toy_run.same_arrays(one.net.state_dict(), third.net.state_dict())


def test_epochs_are_the_total_over_several_calls_of_fit():
    trainer = toy_run.trainer(schedule=None)
    toy_run.fit(trainer, epochs=1)
    toy_run.fit(trainer, epochs=3)
    uninterrupted = toy_run.trainer(schedule=None)
    toy_run.fit(uninterrupted, epochs=3)
    assert trainer.records == uninterrupted.records
    assert toy_run.fit(trainer, epochs=3) == uninterrupted.history


@pytest.mark.parametrize("step", [2, 5])
def test_fit_continues_after_an_error_within_an_epoch_or_after_its_last_step(step):
    class Fails:
        def on_step(self, trainer, record):
            if trainer.steps == step:
                raise RuntimeError("broken")

    failing, whole = toy_run.trainer(), toy_run.trainer()
    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(failing, epochs=2, callbacks=[Fails()])
    assert (failing.batch, failing.batches) == (step, 5)
    assert toy_run.fit(failing, epochs=2) == toy_run.fit(whole, epochs=2)
    assert toy_run.bits(failing) == toy_run.bits(whole)


@pytest.mark.parametrize("device", kernel_devices())
def test_a_net_that_is_no_sequential_trains_unfused_on_devices_with_kernels(device):
    weights = []
    for where in ("numpy", device):
        net = Linear(3)
        net.build((4,), device=where)
        trainer = Trainer(net, "sgd", lr=0.1)
        trainer.fit((np.eye(4, dtype=np.float32), [0, 1, 2, 0]), epochs=2, progress=False)
        weights.append(to_numpy(net["weight"]))
        with pytest.raises(TypeError, match="fuse=True fuses the layers of a Sequential, received Linear"):
            Trainer(net, "sgd", lr=0.1, fuse=True)
    np.testing.assert_allclose(*weights, rtol=1e-5)


class PlainSGD:
    def step(self, params, grads, lr):
        for name, param in params.items():
            param -= np.float32(lr) * grads[name]


@pytest.mark.parametrize("optimizer", ["adam:weight_decay=0.1", "conv1.* -> sgd:lr=0.1; * -> adam:lr=0.01", PlainSGD()])
def test_a_step_trains_whether_or_not_the_caller_advances_the_optimizer(optimizer):
    found = []
    for advances in (True, False):
        trainer = Trainer(toy_run.net(), optimizer)
        for frozen in (True, False, True):
            trainer.net["norm1"].frozen = frozen
            if advances:
                trainer.optimizer.match(trainer.net.params())
                trainer.optimizer.advance()
            trainer.step(np.ones((2, 6, 5, 1), np.float32), np.array([0, 1]))
        assert trainer.steps == 3
        found.append(toy_run.weights(trainer))
    assert toy_run.same_arrays(*found)
    assert not np.array_equal(found[0]["conv1.weight"], toy_run.net()["conv1"]["weight"])


def test_steps_without_fit_refuse_a_schedule_and_go_on_after_fit():
    x, y = np.ones((2, 6, 5, 1), np.float32), np.array([0, 1])
    trainer = toy_run.trainer(schedule="cosine")
    with pytest.raises(ValueError, match=r"the schedule cosine:final=0\.0 needs the length of the run"):
        trainer.step(x, y)
    assert trainer.totals.read().finite_steps == 0
    trainer.optimizer.advance(0.1)
    trainer.step(x, y)
    trainer = toy_run.trainer(optimizer="sgd", lr=0.1, schedule=lambda step: 1.0)
    toy_run.fit(trainer)
    before, steps = toy_run.weights(trainer), trainer.steps
    trainer.step(x, y)
    assert trainer.steps == steps + 1
    assert not toy_run.same_arrays(before, toy_run.weights(trainer))


def test_a_step_on_labels_that_are_no_array_is_refused():
    trainer = toy_run.trainer(schedule="constant")
    with pytest.raises(TypeError, match="expected an array of NumPy or CuPy, received list"):
        trainer.step(np.ones((2, 6, 5, 1), np.float32), [0, 1])


def test_fit_after_a_divergence_says_again_that_the_loss_is_not_finite():
    trainer = toy_run.trainer(optimizer="sgd", lr=1e30)
    for _ in range(2):
        with pytest.raises(DivergedError, match="the loss is not finite at step 2"):
            toy_run.fit(trainer, epochs=2)


def test_fit_within_an_epoch_refuses_data_whose_epoch_is_shorter():
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=2, callbacks=[toy_run.StopAt(3, "enough")])
    with pytest.raises(ValueError, match="ended after 3 steps of an epoch, and an epoch of train now has 2; give"):
        toy_run.fit(trainer, train=toy_run.loader(batch_size=11), epochs=2)
    assert trainer.batches == 5


def test_the_first_loss_is_the_log_of_the_number_of_classes():
    trainer = toy_run.trainer(optimizer="sgd", lr=0.0, schedule=None)
    trainer.net.params()["fc1.weight"].fill(0)
    history = toy_run.fit(trainer, epochs=1)
    assert history[0]["train_loss"] == pytest.approx(math.log(3), rel=1e-6)
    assert losses.get("softmax") == trainer.loss
