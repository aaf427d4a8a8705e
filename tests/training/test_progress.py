"""The progress bar and the lines printed by a run."""

from types import SimpleNamespace

from gpuconv.system import console
from gpuconv.training import callbacks
from gpuconv.training.callbacks import Progress, describe
from tests import toy_run


def test_each_epoch_is_printed_in_one_line(capsys):
    toy_run.fit(toy_run.trainer(), test=toy_run.held_out(), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {number}/3  loss ")
        assert "  validation accuracy " in line
        assert "  test accuracy " in line


def test_a_fit_that_has_nothing_left_to_train_says_so(capsys):
    trainer = toy_run.trainer()
    toy_run.fit(trainer, test=toy_run.held_out())
    toy_run.fit(trainer, test=toy_run.held_out(), progress=True)
    assert capsys.readouterr().out == "nothing is left to train: 3 of 3 epochs are done\n"


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


def test_the_reason_for_the_end_is_printed_unless_the_run_finished_failed_or_was_interrupted(capsys):
    for reason in ("finished", "interrupted", "failed", "early stopping: enough"):
        progress = Progress()
        progress.on_start(SimpleNamespace(epoch=0, epochs=1))
        progress.on_stop(None, reason)
    assert capsys.readouterr().out == "early stopping: enough\n"


def test_an_epoch_is_described_in_one_line():
    record = {"epoch": 3, "train_loss": 0.12345, "train_accuracy": 0.961, "test_loss": 1, "test_accuracy": 1.0}
    assert describe(record, 20) == "epoch  3/20  loss 0.1235  accuracy 96.10%  test loss 1.0000  test accuracy 100.00%"
    held_out = record | {"validation_loss": 0.5, "validation_accuracy": 0.25}
    assert "  validation loss 0.5000  validation accuracy 25.00%  test loss" in describe(held_out, 3)
