"""The training loop: what it learns, the same bits in every run, and epochs over several calls of fit."""

import math

import pytest

from gpuconv import losses
from gpuconv.training import Trainer
from tests.training import toy_run


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


def test_the_first_loss_is_the_log_of_the_number_of_classes():
    trainer = toy_run.trainer(optimizer="sgd", lr=0.0, schedule=None)
    trainer.net.params()["fc1.weight"].fill(0)
    history = toy_run.fit(trainer, epochs=1)
    assert history[0]["train_loss"] == pytest.approx(math.log(3), rel=1e-6)
    assert losses.get("softmax") == trainer.loss
