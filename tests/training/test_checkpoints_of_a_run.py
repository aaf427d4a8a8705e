"""When a run writes its checkpoints: within epochs, after the best epoch, and not after a failure."""

import os

import pytest

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
