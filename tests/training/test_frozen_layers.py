"""Layers that a callback freezes or unfreezes, in a resumed run."""

import pytest

from gpuconv import checkpoint
from gpuconv.training import Callback, CheckpointError
from tests import toy_run


class Thaw(Callback):
    """Unfreezes the first layer after epoch 1, as in fine-tuning, and freezes the last layer's bias after epoch 2."""

    def on_epoch(self, trainer, record):
        if trainer.epoch == 1:
            trainer.net["conv1"].unfreeze()
        if trainer.epoch == 2:
            trainer.net["fc1"].frozen = "bias"


def thawing_run(run_dir, precision, stop_at=0, **options):
    """The trainer of a run that begins with a frozen first layer and stops after step `stop_at`; 0 means at its end."""
    trainer = toy_run.trainer(precision=precision)
    trainer.net["conv1"].freeze()
    toy_run.fit(
        trainer,
        epochs=4,
        validation=None,
        callbacks=[Thaw(), toy_run.StopAt(stop_at, "enough")],
        run_dir=run_dir,
        checkpoint_every=1,
        train=toy_run.loader(dtype=precision),
        **options,
    )
    return trainer


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_frozen_by_a_callback_are_frozen_after_resuming(tmp_path, precision):
    uninterrupted = thawing_run(tmp_path / "uninterrupted", precision)
    for step in (3, 5, 7, 10, 13):
        thawing_run(tmp_path / f"cut-{step}", precision, step)
        resumed = thawing_run(tmp_path / f"cut-{step}", precision, resume=True)
        assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
        assert [layer.frozen for layer in resumed.net.walk()] == [layer.frozen for layer in uninterrupted.net.walk()]
        assert resumed.history == uninterrupted.history


def test_a_run_can_be_resumed_after_a_callback_freezes_a_layer_and_stops_the_run(tmp_path):
    class FreezeAndStop(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 3:
                trainer.net["conv1"].freeze()
                trainer.stop("frozen")

    for resume in (False, True):
        trainer = toy_run.trainer()
        toy_run.fit(trainer, run_dir=tmp_path, resume=resume, callbacks=[FreezeAndStop()])
    assert trainer.net["conv1"].frozen
    assert trainer.epoch == 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_refused_restore_changes_neither_frozen_layers_nor_the_optimizer(tmp_path, precision):
    thawing_run(tmp_path, precision)
    state = checkpoint.load(tmp_path / "last.safetensors")
    other = toy_run.trainer(precision=precision, optimizer="sgd")
    other.net["conv1"].freeze()
    other.optimizer.match(other.net.params())
    frozen, arrays = [layer.frozen for layer in other.net.walk()], other.optimizer.state_dict()
    other.epochs, other.batches, other.fit_settings = 4, toy_run.STEPS_PER_EPOCH, state.state["settings"]
    with pytest.raises(CheckpointError, match="does not match"):
        other.restore(state)
    assert [layer.frozen for layer in other.net.walk()] == frozen
    assert toy_run.same_arrays(other.optimizer.state_dict(), arrays)
