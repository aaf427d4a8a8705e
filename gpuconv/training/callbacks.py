"""Callbacks of a run: progress, logs, curves, checkpoints, early stopping.

A callback has some of these methods:

    on_start(trainer)            before the first step, after a checkpoint was loaded
    on_step(trainer, record)     after each step; record: the loss and accuracy every `metrics_every` steps, else None
    on_epoch(trainer, record)    after each epoch, with its record
    on_test(trainer, record)     at the end, if the test data is evaluated only then
    on_stop(trainer, reason)     at the end: "finished", "interrupted", "failed" or the reason given to `stop`

and optionally ``around_step(trainer)``, a context in which each step runs; steps are not captured then.

Each rank calls its callbacks, but one with the attribute ``only_on_rank_0 = True`` is called on rank 0 only.

``trainer.stop("reason")`` ends the run after the current step. Checkpoints hold no state of callbacks; after a resume,
a callback finds the past epochs in ``trainer.history``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpuconv.arguments import expect_accepts, integer
from gpuconv.checkpoint import CheckpointError, save, write_atomically
from gpuconv.console import is_quiet, progress_bar, say
from gpuconv.files import open_to_append
from gpuconv.names import lookup
from gpuconv.shell import command
from gpuconv.training.run_state import RunState
from gpuconv.training.rundir import RunDirectory
from gpuconv.types import Record

log = logging.getLogger(__name__)


class Callback:
    """The base class of callbacks; its methods do nothing."""

    # `trainer` is Any here, so that a callback may annotate it as gpuconv.Trainer.

    def on_start(self, trainer: Any) -> None:
        """Before the first step. `trainer`: the state, with `net`, `steps`, `epoch`, `records` and `stop(reason)`."""

    def on_step(self, trainer: Any, record: Record | None) -> None:
        """After a step of `trainer`. `record`: the entry for the log if the loss was read after this step, else
        None."""

    def next_step(self, trainer: Any) -> int | None:
        """The number of steps until `on_step` next reads or changes the state of `trainer`.

        1, the default for a callback with `on_step`, means every step; None means never. For the steps in between,
        `on_step` is still called, but perhaps only after all of them have run.
        """
        return None if type(self).on_step is Callback.on_step else 1

    def on_epoch(self, trainer: Any, record: Record) -> None:
        """After an epoch of `trainer`. `record`: its number, loss and accuracy, and those of the validation and test
        data.
        """

    def on_test(self, trainer: Any, record: Record) -> None:
        """After the test at the end of a run of `trainer`. `record`: its results."""

    def on_stop(self, trainer: Any, reason: str) -> None:
        """When the run of `trainer` ends, for whatever reason. `reason`: "finished", "interrupted", "failed", or the
        reason given to `stop`.
        """


EVENTS = {  # the arguments of each event
    "on_start": ("trainer",),
    "on_step": ("trainer", "record"),
    "on_epoch": ("trainer", "record"),
    "on_test": ("trainer", "record"),
    "on_stop": ("trainer", "reason"),
}


def checked_callbacks(callbacks: Sequence[object]) -> list[Any]:
    """Callbacks as a list. Raises TypeError for an object without any event method, for a method "on_..." of an unknown
    event (naming the nearest one), and for a method that does not take its event's arguments."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks are a list, received {type(callbacks).__name__}")
    found = [*callbacks]
    for each in found:
        if isinstance(each, type):
            raise TypeError(f"a callback is an object, received the class {each.__name__}; call it: {each.__name__}()")
        for name in dir(each):
            if name.startswith("on_") and name not in EVENTS and callable(getattr(each, name, None)):
                try:
                    lookup("event", name, EVENTS)
                except ValueError as error:
                    raise TypeError(f"{type(each).__name__}.{name} would never be called: {error}") from None
        has = [event for event in EVENTS if _defines(each, event)]
        if not has:
            raise TypeError(f"a callback is an object with any of {', '.join(EVENTS)}, received {each!r}")
        for event in has:
            expect_accepts(f"{type(each).__name__}.{event}", getattr(each, event), *EVENTS[event])
    return found


def _defines(callback: object, event: str) -> bool:
    """Whether the callback defines a method for that event."""
    inherited = isinstance(callback, Callback) and getattr(type(callback), event) is getattr(Callback, event)
    return event in vars(callback) if inherited else hasattr(callback, event)


def next_step(callback: object, trainer: RunState) -> int | None:
    """The callback's `next_step`, or the default of `Callback`."""
    if hasattr(callback, "next_step"):
        return callback.next_step(trainer)
    return 1 if hasattr(callback, "on_step") else None


def run_dir_callbacks(run: RunDirectory, checkpoint_every: int | None = None) -> list[Callback]:
    """The callbacks that fill a run directory."""
    return [Checkpoints(run, checkpoint_every), JSONLog(run.metrics_jsonl), CSVLog(run.metrics_csv), Curves(run.curves)]


def monitored_measure(record: Record) -> tuple[str, float]:
    """The name and value of the measure by which epochs are compared; a higher value is better. It is the validation
    accuracy if there is one, else the negative validation loss, else the negative training loss."""
    if record.get("validation_accuracy") is not None:
        return "validation_accuracy", record["validation_accuracy"]
    if "validation_loss" in record:
        return "validation_loss", -record["validation_loss"]
    return "train_loss", -record["train_loss"]


def best_epoch(history: list[Record]) -> Record:
    """The record of the best epoch, the first one if several are equal."""
    return max(history, key=lambda record: (monitored_measure(record)[1], -record["epoch"]))


class Checkpoints(Callback):
    """Keep the last state and the best one.

    Saves at the start, so that an unwritable directory fails at once, then after each epoch, every `every` steps, and
    when the run stops. Nothing is saved when a run fails.

    run: None on a rank that writes no files; the callback still waits for the other ranks there, and takes part in
    snapshots of a sharded optimizer.
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


class Log(Callback):
    """A text file with the `lines` of all records. At the start it is rewritten from the records of the checkpoint,
    which drops the lines that a killed process wrote after it; later lines are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, record: Record, first: bool) -> str:
        """The text for one more record. first: for the record of an epoch, whether it is the first such
        record."""
        raise NotImplementedError

    def on_start(self, trainer: RunState) -> None:
        self._epochs = 0
        write_atomically(self.path, "".join(map(self._next, trainer.records)).encode())

    def next_step(self, trainer: RunState) -> int | None:
        return None  # it only needs records

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        if record is not None:
            self._append(record)

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self._append(record)

    def on_test(self, trainer: RunState, record: Record) -> None:
        self._append(record)

    def _next(self, record: Record) -> str:
        self._epochs += record["event"] == "epoch"
        return self.lines(record, self._epochs == 1)

    def _append(self, record: Record) -> None:
        append(self.path, self._next(record))


def append(path: Path, text: str) -> None:
    """Append lines to a log, all of them or none. Raises CheckpointError."""
    try:
        size = path.stat().st_size
        try:
            with open(path, "ab", opener=open_to_append) as file:
                file.write(text.encode())
        except OSError:
            os.truncate(path, size)  # leave no incomplete line
            raise
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; checkpoints are as before") from error


class JSONLog(Log):
    """metrics.jsonl: one line for each record."""

    def lines(self, record: Record, first: bool) -> str:
        return json.dumps(record) + "\n"


class CSVLog(Log):
    """metrics.csv: a header, then one line for each epoch."""

    def lines(self, record: Record, first: bool) -> str:
        if record["event"] != "epoch":
            return ""
        if first:
            self._columns = [key for key, value in record.items() if key != "event" and not isinstance(value, list)]
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n", extrasaction="ignore")
        if first:
            writer.writeheader()
        writer.writerow(record)
        return text.getvalue()


class Curves(Callback):
    """Draw loss and accuracy by epoch when the run ends, and before that after epochs, at intervals of at least
    `seconds`.

    If drawing fails, the reason is printed, unless it is the same as before, and the run continues.
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
    """Stop after `patience` epochs in a row, at least 1, without a new best."""

    def __init__(self, patience: int) -> None:
        self.patience = integer("patience", patience, 1)

    def on_start(self, trainer: RunState) -> None:
        history = trainer.history
        if history and history[-1]["epoch"] - best_epoch(history)["epoch"] >= self.patience:
            key, _ = monitored_measure(history[-1])
            trainer.stop(f"early stopping: no better {key} in {self.patience} epochs")

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self.on_start(trainer)


class Progress(Callback):
    """A line after each epoch, and on a terminal also a progress bar over the epoch's steps."""

    def on_start(self, trainer: RunState) -> None:
        self._bar: Any = None
        self._began = time.perf_counter()

    def next_step(self, trainer: RunState) -> int | None:
        return None  # it only counts

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
            others = [key for key in record if key.startswith(f"{name}_")][2:]
            parts += [f"{key.replace('_', ' ')} {record[key]:.4f}" for key in others if isinstance(record[key], float)]
    parts += [f"rate x {record['plateau']:g}"] if record.get("plateau", 1.0) < 1 else []
    return "  ".join(parts)
