"""The built-in callbacks: progress bars, curves, and the step at which each has to act next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuconv import plots
from gpuconv.system import console
from gpuconv.training import Callback, EarlyStopping, callback_base, callbacks
from gpuconv.training.callbacks import Checkpoints, Curves, Progress, best_epoch, describe, monitored_measure
from gpuconv.training.logs import Log
from gpuconv.training.rundir import RunDirectory
from tests.training import toy_run


class Bar(console._NoBar):
    def __init__(self, **options):
        self.options, self.events = options, []

    def update(self, count=1):
        self.events.append(count)

    def set_postfix(self, **shown):
        self.events.append(shown)

    def close(self):
        self.events.append("closed")


def test_every_epoch_has_a_progress_bar(monkeypatch, capsys):
    bars = []
    monkeypatch.setattr(callbacks, "progress_bar", lambda **options: bars.append(Bar(**options)) or bars[-1])
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=10, metrics_every=2, progress=True)
    assert [bar.options for bar in bars] == [
        {
            "total": 5,
            "initial": 0,
            "leave": False,
            "unit": "step",
            "dynamic_ncols": True,
            "desc": f"epoch {epoch:2}/10",
            "disable": None,
        }
        for epoch in range(1, 11)
    ]
    steps = {record["step"]: record for record in trainer.records if record["event"] == "step"}
    shown = [
        {"loss": f"{steps[step]['loss']:.4f}", "accuracy": f"{100 * steps[step]['accuracy']:.2f}%"} for step in (2, 4)
    ]
    assert bars[0].events == [1, 1, shown[0], 1, 1, shown[1], 1, "closed"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [describe(record, 10) for record in trainer.history]
    assert all(line.endswith(" s") and float(line.split()[-2]) < 60 for line in lines)


def test_a_bar_resumes_within_an_epoch_and_is_omitted_without_stderr(monkeypatch):
    bars = []
    monkeypatch.setattr(callbacks, "progress_bar", lambda **options: bars.append(options) or Bar())
    trainer = SimpleNamespace(batches=5, batch=4, epoch=0, epochs=3)
    for stream in ("there", None):
        progress = Progress()
        progress.on_start(trainer)
        with monkeypatch.context() as patch:
            patch.setattr(callbacks.sys, "stderr", stream)
            progress.on_step(trainer, None)
    assert [(options["initial"], options["desc"], options["disable"]) for options in bars] == [
        (3, "epoch 1/3", None),
        (3, "epoch 1/3", True),
    ]


def test_the_reason_for_the_end_of_a_run_is_printed_unless_already_known(capsys):
    for reason in ("finished", "interrupted", "failed", "early stopping: enough"):
        progress = Progress()
        progress.on_start(None)
        progress.on_stop(None, reason)
    assert capsys.readouterr().out == "early stopping: enough\n"


def test_an_epoch_is_described_in_one_line():
    record = {"epoch": 3, "train_loss": 0.12345, "train_accuracy": 0.961, "test_loss": 1, "test_accuracy": 1.0}
    assert describe(record, 20) == "epoch  3/20  loss 0.1235  accuracy 96.10%  test loss 1.0000  test accuracy 100.00%"
    held_out = record | {"validation_loss": 0.5, "validation_accuracy": 0.25}
    assert "  validation loss 0.5000  validation accuracy 25.00%  test loss" in describe(held_out, 3)


def test_next_step_is_the_number_of_steps_until_a_callback_has_to_act(tmp_path):
    """Until then a device may run ahead. A callback with a step hook acts at each step unless its own `next_step` says
    otherwise."""

    class Listens(Callback):
        def on_step(self, trainer, record):
            pass

    def ask(callback, steps):
        return callback_base.next_step(callback, SimpleNamespace(steps=steps))

    assert [ask(Callback(), 3), ask(Listens(), 3), ask(EarlyStopping(1), 3)] == [None, 1, None]
    assert [ask(SimpleNamespace(), 3), ask(SimpleNamespace(on_step=print), 3)] == [None, 1]
    assert [ask(callback, 3) for callback in (Log(tmp_path), Progress(), Curves(tmp_path))] == [None] * 3
    run = RunDirectory(tmp_path)
    assert [ask(Checkpoints(run, 5), steps) for steps in (0, 3, 4, 5, 7)] == [5, 2, 1, 5, 3]
    assert ask(Checkpoints(run), 3) is None


def test_validation_accuracy_or_else_training_loss_is_monitored_and_the_first_best_epoch_wins():
    assert monitored_measure({"train_loss": 2.0, "validation_accuracy": 0.5}) == ("validation_accuracy", 0.5)
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


def test_curves_are_drawn_periodically_and_at_the_end(monkeypatch, tmp_path, caplog):
    now, drawn, failing = [100.0], [], [None]

    def draw(path, make):
        drawn.append((path, now[0]))
        if failing[0]:
            raise plots.PlotError(failing[0])

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(plots, "draw", draw)
    curves, trainer = Curves(tmp_path / "curves.png", seconds=30), SimpleNamespace(history=[])
    curves.on_start(trainer)
    curves.on_stop(trainer, "finished")
    assert drawn == []  # without epochs there is nothing to draw
    trainer.history.append({})
    for seconds in (129.9, 130.0, 150.0, 159.9, 160.0):
        now[0] = seconds
        curves.on_epoch(trainer, {})
    assert [at for _, at in drawn] == [130.0, 160.0]
    curves.on_stop(trainer, "finished")
    assert drawn[-1] == (tmp_path / "curves.png", 160.0)
    assert len(drawn) == 3
    for reason in ("no fonts", "no fonts", "no disk"):
        failing[0] = reason
        curves.on_stop(trainer, "finished")
    assert caplog.messages == ["no curves.png: no fonts", "no curves.png: no disk"]
    failing[0] = "no more"
    curves.on_stop(trainer, "failed")  # after a failure only its own message matters
    assert len(caplog.messages) == 2
