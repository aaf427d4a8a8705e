"""Early stopping, and the measure by which it chooses the best epoch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuconv.training import EarlyStopping, callbacks
from gpuconv.training.callbacks import best_epoch, monitored_measure
from tests import toy_run


def test_validation_accuracy_or_else_a_loss_is_monitored_and_the_first_best_epoch_wins():
    assert monitored_measure({"train_loss": 2.0, "validation_accuracy": 0.5}) == ("validation_accuracy", 0.5)
    assert monitored_measure({"train_loss": 2.0, "validation_loss": 3.0}) == ("validation_loss", -3.0)
    assert monitored_measure({"train_loss": 2.0}) == ("train_loss", -2.0)
    history = [{"epoch": number, "train_loss": loss} for number, loss in enumerate([3.0, 1.0, 2.0, 1.0], 1)]
    assert best_epoch(history)["epoch"] == 2


def test_early_stopping_waits_for_its_patience():
    for patience, stops in ((1, True), (2, True), (3, False)):
        reasons = []
        history = [{"epoch": number, "train_loss": loss} for number, loss in enumerate([1.0, 3.0, 2.0], 1)]
        trainer = SimpleNamespace(history=history, stop=reasons.append)
        EarlyStopping(patience).on_epoch(trainer, history[-1])
        assert reasons == [f"early stopping: no better train_loss in {patience} epochs"] * stops
    EarlyStopping(1).on_start(SimpleNamespace(history=[]))
    with pytest.raises(ValueError, match="patience must be at least 1, received 0"):
        EarlyStopping(0)
    with pytest.raises(TypeError, match=r"patience must be an integer, received 1\.5"):
        EarlyStopping(1.5)


@pytest.fixture
def best_is_epoch_2(monkeypatch):
    monkeypatch.setattr(callbacks, "_measures", lambda record: {"score": -abs(record["epoch"] - 2)})


@pytest.mark.usefixtures("best_is_epoch_2")
def test_early_stopping_counts_epochs_since_the_best(capsys):
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=20, callbacks=[EarlyStopping(3)], progress=True)
    assert trainer.epoch == 5
    assert "early stopping: no better score in 3 epochs" in capsys.readouterr().out


@pytest.mark.usefixtures("best_is_epoch_2")
def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    for resume in (False, True):
        trainer = toy_run.trainer()
        toy_run.fit(trainer, epochs=20, callbacks=[EarlyStopping(3)], run_dir=tmp_path / "run", resume=resume)
        assert trainer.epoch == 5
        assert "early stopping" in trainer.stop_reason


def test_epochs_are_compared_by_the_measure_of_the_last_one():
    measured = [
        {"epoch": number, "train_loss": 2.0, "validation_loss": 1.0, "validation_accuracy": 0.9}
        for number in range(1, 6)
    ]
    later = [{"epoch": number, "train_loss": 1.0 / number} for number in range(6, 10)]
    assert best_epoch(measured + later)["epoch"] == 9
    assert best_epoch(later[:2] + measured[2:])["epoch"] == 3
    reasons = []
    trainer = SimpleNamespace(history=measured + later, stop=reasons.append)
    EarlyStopping(3).on_epoch(trainer, later[-1])
    assert reasons == []


def test_the_start_of_a_users_subclass_is_called_once():
    class Own(EarlyStopping):
        starts = 0

        def on_start(self, trainer):
            self.starts += 1
            super().on_start(trainer)

    stopping = Own(30)
    toy_run.fit(toy_run.trainer(), callbacks=[stopping])
    assert stopping.starts == 1
