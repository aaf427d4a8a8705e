"""Callbacks of a run: checkpoints, curves, early stopping, progress. `logs` has the callbacks that write metrics.jsonl
and metrics.csv; `callback_base` describes the events."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from gpuconv.arguments import integer
from gpuconv.checkpoint import save
from gpuconv.system.console import is_quiet, progress_bar, say
from gpuconv.system.shell import command
from gpuconv.training.callback_base import Callback
from gpuconv.training.logs import CSVLog, JSONLog, Log
from gpuconv.training.run_state import RunState
from gpuconv.training.rundir import RunDirectory
from gpuconv.types import Record

__all__ = ["CSVLog", "Callback", "Checkpoints", "Curves", "EarlyStopping", "JSONLog", "Log", "Progress"]

log = logging.getLogger(__name__)


def run_dir_callbacks(run: RunDirectory, checkpoint_every: int | None = None) -> list[Callback]:
    """The callbacks that fill a run directory."""
    return [Checkpoints(run, checkpoint_every), JSONLog(run.metrics_jsonl), CSVLog(run.metrics_csv), Curves(run.curves)]


def monitored_measure(record: Record) -> tuple[str, float]:
    """The name and value of the measure by which epochs are compared; a higher value is better. It is the validation
    accuracy if there is one, else the negative validation loss, else the negative training loss."""
    return next(iter(_measures(record).items()))


def _measures(record: Record) -> dict[str, float]:
    """The measures of a record by which epochs can be compared, the preferred one first; higher values are better."""
    found = {}
    if record.get("validation_accuracy") is not None:
        found["validation_accuracy"] = record["validation_accuracy"]
    if "validation_loss" in record:
        found["validation_loss"] = -record["validation_loss"]
    return found | {"train_loss": -record["train_loss"]}


def best_epoch(history: list[Record]) -> Record:
    """The record of the best epoch, the first one if several are equal. They are compared by the measure of the last
    record (`monitored_measure`); records without it, of a `fit` with other data, are left out."""
    name, _ = monitored_measure(history[-1])
    comparable = [(record, found[name]) for record in history if name in (found := _measures(record))]
    return max(comparable, key=lambda pair: (pair[1], -pair[0]["epoch"]))[0]


class Checkpoints(Callback):
    """Keep the last state and the best one.

    Saves at the start, so that an unwritable directory fails at once, then after each epoch, every `every` steps, and
    when the run stops. Nothing is saved when a run fails.

    run: The run directory; None on a rank that writes no files. There the callback only waits for the other ranks and
    takes part in the snapshots of a sharded optimizer.
    """

    def __init__(self, run: RunDirectory | None, every: int | None = None) -> None:
        self.run = run
        self.every = every
        self._saved_at: int | None = None

    def on_start(self, trainer: RunState) -> None:
        self._save(trainer)

    def next_step(self, trainer: RunState) -> int | None:
        return self.every - trainer.steps % self.every if self.every else None

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        # After the last step of an epoch, on_epoch saves, because the epoch's record is then in the state.
        if self.every and trainer.steps % self.every == 0 and trainer.batch < trainer.batches:
            self._save(trainer)

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self._save(trainer, best=best_epoch(trainer.history) is record)

    def on_stop(self, trainer: RunState, reason: str) -> None:
        if reason == "failed":
            return
        if self._saved_at != trainer.steps:
            self._save(trainer)
        if reason == "interrupted" and self.run:
            by_command = "command" in self.run.settings().get("options", {})
            by_fit = f"fit(..., run_dir={str(self.run)!r}, resume=True)"
            how = command("gpuconv", "train", "--resume", self.run.path) if by_command else by_fit
            log.info("interrupted after step %d; saved to %s\ncontinue with: %s", trainer.steps, self.run.last, how)

    def _save(self, trainer: RunState, best: bool = False) -> None:
        trainer.ranks.barrier()
        self._saved_at = trainer.steps
        if self.run is None and trainer.optimizer_shards is None:
            return
        snapshot = trainer.snapshot()
        if self.run and best:
            save(self.run.best, snapshot)
        if self.run:
            save(self.run.last, snapshot)


class Curves(Callback):
    """Draw the curves of loss and accuracy over the epochs: at the end of the run, and after an epoch if the start or
    the previous drawing was at least `seconds` ago.

    If drawing fails, the run continues. The reason is printed, unless the previous failure had the same reason. After a
    failed run no reason is printed.
    """

    def __init__(self, path: Path, seconds: float = 30.0) -> None:
        self.path = path
        self.seconds = seconds

    def on_start(self, trainer: RunState) -> None:
        self._drawn = time.monotonic()
        self._last_error = ""

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        if time.monotonic() - self._drawn >= self.seconds:
            self._draw(trainer)

    def on_stop(self, trainer: RunState, reason: str) -> None:
        if trainer.history:
            self._draw(trainer, quiet=reason == "failed")  # then only the run's own error is printed

    def _draw(self, trainer: RunState, quiet: bool = False) -> None:
        from gpuconv import plots

        try:
            plots.draw(self.path, lambda: plots.curves(trainer.history))
        except plots.PlotError as error:
            if not quiet and str(error) != self._last_error:
                log.warning("no %s: %s", self.path.name, error)
            self._last_error = str(error)
        self._drawn = time.monotonic()


class EarlyStopping(Callback):
    """Stop after `patience` (at least 1) epochs in a row without a better validation accuracy. If the loss does not
    classify, the validation loss counts instead; without validation data, the training loss counts."""

    def __init__(self, patience: int) -> None:
        self.patience = integer("patience", patience, 1)

    def on_start(self, trainer: RunState) -> None:
        self._stop_if_due(trainer)

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: RunState) -> None:
        history = trainer.history
        if history and history[-1]["epoch"] - best_epoch(history)["epoch"] >= self.patience:
            key, _ = monitored_measure(history[-1])
            trainer.stop(f"early stopping: no better {key} in {self.patience} epochs")


class Progress(Callback):
    """Print a line after each epoch, after the test at the end, and with the reason of an early stop. On a terminal,
    also show a progress bar over the epoch's steps."""

    def on_start(self, trainer: RunState) -> None:
        self._bar: Any = None
        self._began = time.perf_counter()
        if 0 < trainer.epochs <= trainer.epoch and not is_quiet():
            say(f"nothing is left to train: {trainer.epoch} of {trainer.epochs} epochs are done", "stdout")

    def next_step(self, trainer: RunState) -> int | None:
        return None  # on_step only updates the progress bar

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr is closed
            self._show(trainer, record)

    def _show(self, trainer: RunState, record: Record | None) -> None:
        if self._bar is None:
            width = len(str(trainer.epochs))
            self._bar = progress_bar(
                total=trainer.batches,
                initial=trainer.batch - 1,
                leave=False,
                unit="step",
                dynamic_ncols=True,
                desc=f"epoch {trainer.epoch + 1:{width}}/{trainer.epochs}",
                disable=None if sys.stderr else True,
            )
        self._bar.update()
        if record is not None:
            self._bar.set_postfix(loss=f"{record['loss']:.4f}", **_percent("accuracy", record))

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self._close()
        now = time.perf_counter()
        if not is_quiet():
            say(f"{describe(record, trainer.epochs)}  {now - self._began:.1f} s", "stdout")
        self._began = now

    def on_test(self, trainer: RunState, record: Record) -> None:
        if not is_quiet():
            accuracy = [f"{name} {share}" for name, share in _percent("test_accuracy", record).items()]
            say("  ".join([f"test loss {record['test_loss']:.4f}", *accuracy]), "stdout")

    def on_stop(self, trainer: RunState, reason: str) -> None:
        self._close()
        if reason not in ("finished", "interrupted", "failed") and not is_quiet():
            say(reason, "stdout")

    def _close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
        self._bar = None


def _percent(name: str, record: Record) -> dict[str, str]:
    """The record's accuracy of that name, as {name in words: percentage}; empty if it was not measured."""
    return {} if record[name] is None else {name.replace("_", " "): f"{100 * record[name]:.2f}%"}


def describe(record: Record, epochs: int) -> str:
    """One line about an epoch: "epoch  3/20  loss 0.1234  accuracy 96.10%  test loss 0.1100  test accuracy 97.22%"."""
    parts = [f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}"]
    for name in ("train", "validation", "test"):
        if f"{name}_loss" in record:
            shown = "" if name == "train" else f"{name} "
            parts.append(f"{shown}loss {record[f'{name}_loss']:.4f}")
            parts += [f"{shown}accuracy {share}" for share in _percent(f"{name}_accuracy", record).values()]
            others = [key for key in record if key.startswith(f"{name}_")][2:]  # those after loss and accuracy
            parts += [f"{key.replace('_', ' ')} {record[key]:.4f}" for key in others if isinstance(record[key], float)]
    parts += [f"rate x {record['plateau']:g}"] if record.get("plateau", 1.0) < 1 else []
    return "  ".join(parts)
