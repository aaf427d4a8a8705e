"""The schemas of run.json and a checkpoint's state. Both are checked here before they are used.

A schema is a `Kind` of value, a list with the schema of its entries, a dictionary with a schema for each name, or a
tuple of a schema and `NOTHING`, which allows null.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from gpuconv.checkpoint import CheckpointError, short_json
from gpuconv.types import Json, Record

Schema = Any  # in one of the forms above


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value: its description for messages, and a function that tells whether a value is of this kind."""

    words: str
    fits: Callable[[Json], bool]


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number of at least 0", lambda value: type(value) is int and 0 <= value < 2**63)
SEED = Kind("a whole number from 0 to 2^64 - 1", lambda value: type(value) is int and 0 <= value < 2**64)
NUMBER = Kind("a number", lambda value: type(value) in (int, float) and abs(value) < 2**1023)
NUMBERS = Kind("a number, or numbers in lists", lambda value: _numbers(value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
NOTHING = Kind("null", lambda value: value is None)
LAYER = Kind("a layer", lambda value: isinstance(value, dict) and isinstance(value.get("layer"), str))
OPTIMIZER = Kind("an optimizer", lambda value: isinstance(value, dict) and isinstance(value.get("optimizer"), str))

_DATA = {
    "batches": COUNT,
    "name": TEXT,
    "images": COUNT,
    "shape": [COUNT],
    "checksum": TEXT,
    "batch_size": COUNT,
    "shuffle": FLAG,
    "drop_last": FLAG,
    "seed": SEED,
    "augmentation": TEXT,
    "at_end": FLAG,
    "part": NUMBER,
}
SETTINGS = {
    "net": LAYER,
    "precision": TEXT,
    "loss_scale": (OBJECT, NOTHING),
    "optimizer": OPTIMIZER,
    "loss": TEXT,
    "schedule": TEXT,
    "seed": SEED,
    "epochs": COUNT,
    "shards": (COUNT, NOTHING),
    "plateau": (TEXT, NOTHING),
    "clip": (TEXT, NOTHING),
    "ema": (NUMBER, NOTHING),
    "accumulate": COUNT,
    "sync_batch_norm": FLAG,
    "train": _DATA,
    "validation": (_DATA, NOTHING),
    "test": (_DATA, NOTHING),
    "metrics_every": COUNT,
    "options": OBJECT,
}
STATE = {
    "net": LAYER,
    "settings": SETTINGS,
    "epoch": COUNT,
    "batch": COUNT,
    "totals": [NUMBER],
    "read": [NUMBER],
    "records": [OBJECT],
    "loss_scale": ([NUMBER], NOTHING),
}
RUN = {"format": COUNT, "gpuconv": TEXT, "settings": SETTINGS}


def _numbers(value: object) -> bool:
    return all(map(_numbers, value)) if isinstance(value, list) else NUMBER.fits(value)


def expect(value: Json, schema: Schema, name: str = "") -> None:
    """Raise ValueError that names the first entry that violates `schema` or is unknown to it. Entries may be absent."""
    if isinstance(schema, tuple):
        schema = schema[0] if value is not None or NOTHING not in schema else NOTHING
    if isinstance(schema, Kind):
        if not schema.fits(value):
            raise ValueError(f"{name} must be {schema.words}, received {short_json(value)}")
    elif isinstance(schema, list):
        expect(value, Kind("a list", lambda value: isinstance(value, list)), name)
        for at, entry in enumerate(value):
            expect(entry, schema[0], f"{name}[{at}]")
    else:
        expect(value, OBJECT, name)
        for key, entry in value.items():
            path = f"{name}.{key}" if name else key
            if key not in schema:
                raise ValueError(f"this version of gpuconv does not know {path}; use the version that wrote it")
            expect(entry, schema[key], path)


def state(found: Record, path: str | os.PathLike[str]) -> Record:
    """A checkpoint's state, checked and complete. Raises CheckpointError that names a wrong or missing entry."""
    defaults: Record = {"loss_scale": None}
    found = defaults | found
    try:
        expect(found, STATE)
        for name in STATE:
            if name not in found:
                raise ValueError(f"{name} is missing")
        for name in ("totals", "read", *(["loss_scale"] if found["loss_scale"] else [])):
            lengths = (4,) if name == "loss_scale" else (4, 5)  # 5 with class weights
            if len(found[name]) not in lengths:
                allowed = " or ".join(map(str, lengths))
                raise ValueError(f"{name} must be {allowed} numbers, received {short_json(found[name])}")
        sets = {name: found["settings"].get(name) for name in ("validation", "test")}
        held_out = [name for name, data in sets.items() if data and not data.get("at_end")]
        epochs = [_is_epoch(record, held_out, f"records[{at}]") for at, record in enumerate(found["records"])]
        if sum(epochs) != found["epoch"]:
            raise ValueError(f"epoch is {found['epoch']}, and records has {sum(epochs)} epochs")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return found


def _is_epoch(record: Record, held_out: list[str], name: str) -> bool:
    """Whether a record is an epoch's. Raises ValueError if an entry is missing or wrong; callbacks may have added
    further entries. held_out: the names of the data sets that were evaluated after each epoch. A record of an earlier
    `fit`, which had no such data, has neither their loss nor their accuracy."""
    needed: Record = {"event": TEXT, "step": COUNT, "epoch": COUNT}
    of_epoch, of_change = (record.get("event") == event for event in ("epoch", "change"))
    measured = [each for each in held_out if f"{each}_loss" in record or f"{each}_accuracy" in record]
    parts = ["train_", *(f"{each}_" for each in measured)] if of_epoch else [""]
    metrics = [f"{part}{metric}" for part in parts for metric in ("loss", "accuracy")]
    needed |= {"settings": OBJECT} if of_change else dict.fromkeys(["lr", *metrics], NUMBER)
    needed |= {metric: (NUMBER, NOTHING) for metric in needed if metric.endswith("accuracy")}
    for key, kind in needed.items():
        if key not in record:
            raise ValueError(f"{name}.{key} is missing")
        expect(record[key], kind, f"{name}.{key}")
    return of_epoch
