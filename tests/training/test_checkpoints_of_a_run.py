"""When a run writes its checkpoints: within epochs, after the best epoch, and not after a failure."""

import os

import pytest

import gpuconv as gc
from gpuconv import checkpoint
from gpuconv.training import Callback, CheckpointError
from tests import toy_run


def test_best_is_the_state_after_the_best_epoch(tmp_path):
    trainer, kept = toy_run.trainer(), toy_run.Remember()
    history = toy_run.fit(trainer, epochs=6, callbacks=[kept], run_dir=tmp_path / "run")
    accuracies = [record["validation_accuracy"] for record in history]
    best = 1 + accuracies.index(max(accuracies))
    assert toy_run.same_arrays(checkpoint.load(tmp_path / "run" / "best.safetensors").part("net"), kept.states[best])
    assert toy_run.same_arrays(checkpoint.load(tmp_path / "run" / "last.safetensors").part("net"), kept.states[6])


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def fill_up(*_):
        raise OSError(28, "No space left on device")

    class FillUp(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 7:
                self.kept = (tmp_path / "run" / "last.safetensors").read_bytes()
                monkeypatch.setattr(os, "fsync", fill_up)

    callback = FillUp()
    with pytest.raises(CheckpointError, match=r"cannot write .*(best|last)\.safetensors: No space left"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[callback])
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == callback.kept
    assert not list((tmp_path / "run").glob(".*"))
    monkeypatch.undo()
    trainer, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(trainer, run_dir=tmp_path / "run", resume=True)
    toy_run.fit(uninterrupted)
    assert trainer.records == uninterrupted.records


def test_a_checkpoint_within_an_epoch_stores_its_step(tmp_path):
    saved = {}

    class Look(Callback):
        def on_step(self, trainer, record):
            state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
            saved[trainer.steps] = state["epoch"], state["batch"]

    toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run", checkpoint_every=2, callbacks=[Look()])
    # A step's checkpoint is saved after the other callbacks were called.
    assert saved == {1: (0, 0), 2: (0, 0), 3: (0, 2), 4: (0, 2), 5: (0, 4)}


def test_a_run_that_fails_saves_nothing_more(tmp_path):
    class Fail(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 7:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Fail()])
    state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
    assert (state["epoch"], state["batch"]) == (1, 0)


def test_a_run_whose_earlier_epochs_had_no_validation_data_is_loaded_and_resumed(tmp_path):
    trainer, run = toy_run.trainer(), tmp_path / "run"
    toy_run.fit(trainer, epochs=2, validation=None)
    toy_run.fit(trainer, epochs=4, run_dir=run)
    assert ["validation_loss" in record for record in trainer.history] == [False, False, True, True]
    assert gc.load(run).predict(toy_run.images().images[:2]).shape == (2, 3)
    resumed = toy_run.trainer()
    toy_run.fit(resumed, epochs=4, run_dir=run, resume=True)
    assert resumed.records == trainer.records
    first, *rows = (run / "metrics.csv").read_text().splitlines()
    assert "validation_loss" in first.split(",")
    assert [len(row.split(",")) for row in rows] == [len(first.split(","))] * 4


def test_going_on_after_a_restored_snapshot_does_not_change_it():
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=1)
    snapshot = trainer.snapshot()
    for _ in range(2):
        trainer.restore(snapshot)
        toy_run.fit(trainer, epochs=2)
        assert snapshot.state["epoch"] == 1
        assert sum(record["event"] == "epoch" for record in snapshot.state["records"]) == 1
        trainer.epochs, trainer.fit_settings = 1, snapshot.state["settings"]


def test_a_snapshot_from_the_last_step_of_an_epoch_is_restored():
    class Snapshot(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == toy_run.STEPS_PER_EPOCH:
                self.taken = trainer.snapshot()

    uninterrupted, snapshot = toy_run.trainer(), Snapshot()
    toy_run.fit(uninterrupted, epochs=2, callbacks=[snapshot])
    assert snapshot.taken.state["batch"] == toy_run.STEPS_PER_EPOCH

    class Restore(Callback):
        def on_start(self, trainer):
            trainer.restore(snapshot.taken)

    again = toy_run.trainer()
    toy_run.fit(again, epochs=2, callbacks=[Restore()])
    assert again.records == uninterrupted.records
    assert toy_run.same_arrays(toy_run.weights(again), toy_run.weights(uninterrupted))
