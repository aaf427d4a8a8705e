"""Records: one JSON file for each device, date and commit, rewritten atomically after every entry.

The path is bench/results/<hardware>/<date>-<commit>.json, or with uncommitted changes <date>-<commit>-dirty.json. An
existing file of that name keeps its entries, so that `ops` after `steps`, or a restarted run, adds to it.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from bench import machine
from gpuconv import types
from gpuconv.devices import Device
from gpuconv.system import files

SCHEMA = 1
_REQUIRED = ("hardware", "kind", "date", "commit", "dirty", "entries")  # names that every reader may look up
RESULTS = Path(__file__).parent / "results"


Data = types.Record  # a benchmark record or a part of one


class RecordError(ValueError):
    """A file is not a record that this version can read; the message says why."""


class Record:
    """A record's data and its path; `save` after every change."""

    def __init__(self, path: Path, data: Data) -> None:
        self.path, self.data = path, data

    @classmethod
    def start(cls, device: str, threads: int, *, results: Path = RESULTS, commit: str | None = None) -> Record:
        """The record of this device, day and commit: a new one or the existing one.

        commit: the name of this version if git cannot tell it. Raises ValueError for one that is empty or has a slash.
        """
        if commit is not None and (not commit or "/" in commit):
            raise ValueError(f"the name of a version must not be empty or have a slash, received {commit!r}")
        head, dirty = machine.commit() if commit is None else (commit, False)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        hardware = machine.folder(device, threads)
        path = results / hardware / f"{now.date()}-{head}{'-dirty' if dirty else ''}.json"
        if path.exists():
            return cls.load(path)
        data = {
            "schema": SCHEMA,
            "hardware": hardware,
            "kind": "cuda" if Device.named(device).on_gpu else "numpy",
            "date": now.isoformat(),
            "commit": head,
            "dirty": dirty,
            **machine.describe(device, threads),
            "load": None,
            "peaks": None,
            "measures": [],
            "goals": [],
            "not reached": [],
            "entries": [],
        }
        return cls(path, data)

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """The record in a file. Raises RecordError if the file holds none, or one of another version, and OSError if it
        cannot be read."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordError(f"{path} is not a benchmark record: {error}") from error
        if not isinstance(data, dict) or "schema" not in data:
            raise RecordError(f"{path} is not a benchmark record: it has no schema number")
        if data["schema"] != SCHEMA:
            raise RecordError(f"{path} has schema {data['schema']}, but this version reads {SCHEMA}: measure again")
        if missing := [name for name in _REQUIRED if name not in data]:
            raise RecordError(f"{path} is not a benchmark record: it has no {', '.join(missing)}")
        return cls(Path(path), data)

    def add(self, entry: Data) -> None:
        """Remove an older entry of the same key, append this one, and save."""
        kept = [other for other in self.data["entries"] if other["key"] != entry["key"]]
        self.data["entries"] = [*kept, entry]
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write(self.path, json.dumps(round_numbers(self.data), separators=(",", ":")).encode())

    @property
    def entries(self) -> dict[str, Data]:
        return {entry["key"]: entry for entry in self.data["entries"]}


def round_numbers(value):
    """Floats rounded to four significant digits, more than any timing has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: round_numbers(entry) for name, entry in value.items()}
    return [round_numbers(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def records_by_date(results: Path = RESULTS, hardware: str = "*") -> list[Record]:
    """Records, oldest first; their names do not tell the order of several records of one day. hardware: a pattern of
    the names of folders in `results`."""
    found = [Record.load(path) for path in sorted(results.glob(f"{hardware}/*.json"))]
    return sorted(found, key=lambda record: record.data["date"])


def newest_records(results: Path = RESULTS) -> list[Record]:
    """The newest record of each device, GPUs first."""
    latest = {record.data["hardware"]: record for record in records_by_date(results)}
    return sorted(latest.values(), key=lambda record: (record.data["kind"] != "cuda", record.data["hardware"]))


# --- reading an entry --------------------------------------------------------------------------


def timed_sides(entry: Data, role: str) -> dict[str, Data]:
    """The timed sides of a role, by name."""
    return {side["name"]: side for side in entry["sides"] if side["role"] == role and side["status"] == "timed"}


def fastest_side(entry: Data, role: str) -> Data | None:
    """The fastest side of a role, which is the one that counts. None if none was timed."""
    return min(timed_sides(entry, role).values(), key=lambda side: side["median"], default=None)
