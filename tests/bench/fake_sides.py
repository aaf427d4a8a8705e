"""Fake sides of a benchmark, which are quick to time. A test can make a side slow, wrong or broken, and get the rows of
the timed entries."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from bench.record import Record
from bench.runner import run, time_entry
from bench.sides import OURS, PEER, Prepared, Side
from bench.suite import Entry
from gpuconv.profiling.timer import CpuTimer
from gpuconv.profiling.work import Ceilings, Work
from gpuconv.verify.compare import Expected

CEILINGS = Ceilings(1e10, {"float32": 1e11})


def entry(shape: int = 8, op: str = "fprop", dtype: str = "float32") -> Entry:
    return Entry("memory", op, "tiny", dtype, (shape,), Work(1e6, 1e5))


def spend(seconds: float) -> None:
    """Wait in a loop, because a sleep is imprecise on a busy machine."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def side(role: str = OURS, name: str = "gpuconv", seconds: float = 1e-4, value: float = 2.0, fail=None) -> Side:
    """A side that takes the given time and computes `value` (correct: 2). fail: the error that preparing it raises."""

    def prepare() -> Prepared:
        if fail is not None:
            raise fail
        return Prepared(lambda _: spend(seconds), lambda: [np.full(3, value)])

    return Side(role, name, prepare)


def compare(results):
    yield Expected("y", np.full(3, 2.0), np.full(3, 1e-6)), results[0]


def record(folder: Path, **data) -> Record:
    """A CPU record with the given data, stored in a folder of results."""
    new = Record.start("numpy", 2, results=folder, commit=data.get("commit", "abc123"))
    new.data |= {"commit": "abc123", "hardware": "cpu-x-2-threads", "device": "CPU X"} | data
    new.path = folder / new.data["hardware"] / f"{new.data['date'][:10]}-{new.data['commit']}.json"
    new.path.unlink(missing_ok=True)
    new.save()
    return new


def timed(into: Record, *sides: Side, entries=None, rounds: int = 4, **options) -> list[dict]:
    """The timed rows of entries (one by default) with the given sides."""
    options = dict(burst=0.002, make_sides=lambda *_: (list(sides), compare)) | options
    return list(run(entries or [entry()], into, "numpy", CpuTimer(), CEILINGS, rounds=rounds, **options))


def timed_on_cpu(entry: Entry) -> dict:
    """The row of an entry with its real sides, timed as briefly as possible."""
    return time_entry(entry, "numpy", CpuTimer(), CEILINGS, compiled=False, rounds=2, burst=0.0)


def by_name(row: dict) -> dict[str, dict]:
    """The sides of a row by their names."""
    return {side["name"]: side for side in row["sides"]}


__all__ = [
    "CEILINGS",
    "OURS",
    "PEER",
    "by_name",
    "compare",
    "entry",
    "record",
    "side",
    "spend",
    "timed",
    "timed_on_cpu",
]
