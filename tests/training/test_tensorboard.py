"""A run's files, read by TensorBoard's own reader."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import backends
from gpuconv.cli import main
from gpuconv.training import TensorBoard
from tests import toy_run

pytest.importorskip("tensorboardX")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf


def read(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "histograms", "images"), 0)
    )
    return events.Reload()


class Weights:
    """The weights of fc1 after each of the last two steps of an epoch."""

    def __init__(self):
        self.seen = []

    def on_step(self, trainer, record):
        if trainer.batch >= trainer.batches - 1:
            self.seen.append(backends.to_numpy(trainer.net.params()["fc1.weight"]).copy())


def test_the_records_of_a_run_are_read_back(tmp_path):
    trainer, weights = toy_run.trainer(), Weights()
    image = toy_run.images().images[0]
    loggers = [TensorBoard(image=image, truth=0), weights]
    trainer.fit(
        toy_run.loader(), epochs=2, callbacks=loggers, run_dir=tmp_path / "run", metrics_every=2, progress=False
    )
    events = read(tmp_path / "run" / "tensorboard")
    steps = [record for record in trainer.records if record["event"] == "step"]
    for name in ("loss", "accuracy", "lr"):
        scalars = events.Scalars(f"step/{name}")
        assert [event.step for event in scalars] == [record["step"] for record in steps]
        np.testing.assert_allclose([event.value for event in scalars], [record[name] for record in steps], rtol=1e-6)
    losses = [event.value for event in events.Scalars("epoch/train_loss")]
    np.testing.assert_allclose(losses, [record["train_loss"] for record in trainer.history], rtol=1e-6)
    assert {tag.partition("/")[2] for tag in events.Tags()["histograms"]} == set(trainer.net.params())
    updates = [event.histogram_value for event in events.Histograms("update/fc1.weight")]
    for update, before, after in zip(updates, weights.seen[::2], weights.seen[1::2], strict=True):
        assert (update.min, update.max) == pytest.approx(((after - before).min(), (after - before).max()), rel=1e-5)
    assert len(updates) == len(events.Images("activations")) == 2
    assert events.Images("activations")[0].width > 500
    assert "_hparams_/experiment" in events.summary_metadata
    assert b"optimizer.lr" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.content


def test_a_wrong_image_is_refused_before_the_run_begins(tmp_path):
    image = toy_run.images().images[0]
    for options, error, message in (
        ({"image": "digit.png"}, TypeError, r"image must be a uint8 array \(H, W, C\), received str"),
        (
            {"image": image / 255},
            TypeError,
            r"image must be a uint8 array \(H, W, C\), received float64 of shape \(6, 5, 1\)",
        ),
        ({"image": image[..., 0]}, TypeError, r"received uint8 of shape \(6, 5\)"),
        ({"image": image, "truth": "seven"}, TypeError, "truth must be an integer, received 'seven'"),
        (
            {"image": image[1:]},
            ValueError,
            "image does not fit: the net takes volumes of 6 x 5 x 1 .* received 5 x 5 x 1",
        ),
        ({"image": image, "truth": 3}, ValueError, "truth must be at most 2, received 3"),
    ):
        trainer = toy_run.trainer()
        with pytest.raises(error, match=message):
            toy_run.fit(trainer, callbacks=[TensorBoard(tmp_path / "events", **options)])
        assert trainer.steps == 0
        assert not (tmp_path / "events").exists()


def test_the_class_of_the_image_may_be_an_array_of_one_element(tmp_path):
    assert TensorBoard(tmp_path, image=toy_run.images().images[0], truth=np.array(3)).truth == 3


def test_updates_are_recorded_in_epochs_of_one_step_too(tmp_path):
    trainer, weights = toy_run.trainer(), Weights()
    first = backends.to_numpy(trainer.net.params()["fc1.weight"]).copy()
    loggers = [TensorBoard(tmp_path), weights]
    trainer.fit(toy_run.loader(batch_size=22), epochs=2, callbacks=loggers, progress=False)
    updates = [event.histogram_value for event in read(tmp_path).Histograms("update/fc1.weight")]
    values = [first, *weights.seen]
    changes = [after - before for before, after in itertools.pairwise(values)]
    assert [update.max for update in updates] == pytest.approx([change.max() for change in changes], rel=1e-5)


def test_a_resumed_run_drops_the_steps_past_its_checkpoint(tmp_path):
    run = tmp_path / "run"

    options = dict(epochs=2, metrics_every=1, progress=False)
    toy_run.trainer().fit(toy_run.loader(), run_dir=run, callbacks=[toy_run.StopAfterOne()], **options)
    # The files of a run that went on after its checkpoint, until it was killed.
    toy_run.trainer().fit(toy_run.loader(), callbacks=[TensorBoard(run / "tensorboard")], **options)
    again = toy_run.trainer()
    again.fit(toy_run.loader(), run_dir=run, resume=True, callbacks=[TensorBoard()], **options)
    assert [event.step for event in read(run / "tensorboard").Scalars("step/loss")] == [*range(1, again.steps + 1)]


def test_graphs_end_before_the_last_step_of_an_epoch():
    logger = TensorBoard()
    steps = [logger.next_step(SimpleNamespace(batches=5, batch=batch)) for batch in range(5)]
    assert steps == [4, 3, 2, 1, 5]
    assert logger.next_step(SimpleNamespace(batches=1, batch=0)) == 1


def test_a_full_disk_is_reported_once_and_the_run_continues(tmp_path, monkeypatch, caplog):
    from tensorboardX.record_writer import RecordWriter

    written = RecordWriter.write

    def fails(self, data):
        if self._writer.tell() > 4000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(self, data)

    monkeypatch.setattr(RecordWriter, "write", fails)
    trainer = toy_run.trainer()
    trainer.fit(toy_run.loader(), epochs=5, callbacks=[TensorBoard(tmp_path)], progress=False)
    assert trainer.epoch == 5
    messages = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert messages == ["the TensorBoard files of this run end here: No space left on device"]


def test_a_missing_folder_or_package_is_reported(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="the run has none: give it a path"):
        toy_run.trainer().fit(toy_run.loader(), epochs=1, callbacks=[TensorBoard()], progress=False)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"'gpuconv\[tensorboard\]'"):
        TensorBoard()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--log", "tensorboard"]) == 2
    assert "TensorBoard logs need tensorboardX" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_train_with_log_tensorboard_writes_all_kinds_of_records(tmp_path):
    arguments = ["train", "--data", "synthetic:n=40,size=8x8x1", "--model", "seed-net", "--epochs", "1", "--quiet"]
    assert main([*arguments, "--log", "tensorboard", "--run-dir", str(tmp_path / "run")]) == 0
    tags = read(tmp_path / "run" / "tensorboard").Tags()
    assert "epoch/test_accuracy" in tags["scalars"]
    assert tags["images"] == ["activations"]
    assert "weight/conv1.weight" in tags["histograms"]


def test_any_error_of_drawing_is_printed_once_and_the_run_continues(tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise ValueError("no font")

    monkeypatch.setattr("gpuconv.training.tensorboard.picture", fails)
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=2, callbacks=[TensorBoard(tmp_path, image=toy_run.images().images[0])])
    assert trainer.epoch == 2
    assert [record.getMessage() for record in caplog.records] == ["no activation picture: ValueError: no font"]
