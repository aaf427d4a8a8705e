"""The logs of a run: metrics.jsonl and metrics.csv."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

from gpuconv.checkpoint import CheckpointError, write_atomically
from gpuconv.system.files import open_to_append
from gpuconv.training.callback_base import Callback
from gpuconv.training.run_state import RunState
from gpuconv.types import Record


class Log(Callback):
    """A text file with the `lines` of all records. At the start it is rewritten from the records of the checkpoint,
    which drops the lines that a killed process wrote after that checkpoint; later lines are appended."""

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
        return None  # on_step only writes the record

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
    """metrics.csv: a header, then one line for each epoch. The columns are the entries of all epochs so far, except
    lists and dictionaries; the file is rewritten when an epoch has a new entry."""

    def on_start(self, trainer: RunState) -> None:
        self._records = [record for record in trainer.records if record["event"] == "epoch"]
        self._columns = [*dict.fromkeys(name for record in self._records for name in _columns(record))]
        self._rewrite()

    def lines(self, record: Record, first: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n", extrasaction="ignore")
        if first:
            writer.writeheader()
        writer.writerow(record)
        return text.getvalue()

    def _append(self, record: Record) -> None:
        if record["event"] != "epoch":
            return
        self._records.append(record)
        new = [name for name in _columns(record) if name not in self._columns]
        self._columns += new
        if new:
            self._rewrite()
        else:
            append(self.path, self.lines(record, first=False))

    def _rewrite(self) -> None:
        text = "".join(self.lines(record, first=not at) for at, record in enumerate(self._records))
        write_atomically(self.path, text.encode())


def _columns(record: Record) -> list[str]:
    """The names of an epoch's entries that fit into a table."""
    return [name for name, value in record.items() if name != "event" and not isinstance(value, (list, dict))]
