"""The schemas of run.json and a checkpoint's state. Both are checked here before they are used.

A schema is a `Kind` of value, a list with the schema of its entries, a dictionary with a schema for each name, or a
tuple of a schema and `NOTHING`, which allows null. A setting that an older version did not store has the value in
`ABSENT`, or, in the description of a layer or an optimizer, the default of its class. A renamed class keeps its old
name as a second entry of its table (`LAYERS`, `OPTIMIZERS`, `LOSSES`, `SCHEDULES`, `MODELS`), so that stored runs find
it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv import algorithms, losses
from gpuconv.checkpoint import Checkpoint, CheckpointError, load, short_json
from gpuconv.dtypes import converted, is_float
from gpuconv.layers.base import Layer
from gpuconv.layers.registry import layer_class, name_of
from gpuconv.layers.saving import NOTES
from gpuconv.training import schedules
from gpuconv.training.clip import Clip
from gpuconv.training.optimizers import OPTIMIZERS, Groups
from gpuconv.training.plateau import Plateau
from gpuconv.types import Record

Schema = Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value: its description for messages, and a function that tells whether a value is of this kind."""

    words: str
    fits: Callable[[Any], bool]


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number of at least 0", lambda value: type(value) is int and 0 <= value < 2**63)
SEED = Kind("a whole number from 0 to 2^64 - 1", lambda value: type(value) is int and 0 <= value < 2**64)
NUMBER = Kind("a number", lambda value: type(value) in (int, float) and abs(value) < 2**1023)
NUMBERS = Kind("numbers, in lists or not", lambda value: _numbers(value))
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

ABSENT: Record = {
    "precision": "float32",
    "loss_scale": None,
    "shards": None,
    "plateau": None,
    "clip": None,
    "ema": None,
    "accumulate": 1,
    "sync_batch_norm": False,
    "validation": None,
    "test": None,
    "options": {},
}
ABSENT_DATA: Record = {"drop_last": False, "augmentation": "none", "at_end": False}
TEXTS: dict[str, Callable[[str], str]] = {  # rewrite an old text with today's names and with every option
    "loss": losses.redescribed,
    "schedule": lambda text: str(schedules.get(text)),
    "plateau": lambda text: text and str(Plateau.of(text)),
    "clip": lambda text: text and str(Clip.of(text)),
}

_GONE: Any = object()  # stands for a missing entry

# Not compared, unlike the data's checksum and the settings: where the data are, and the wording of the command line.
PLACES = ("train.name", "validation.name", "validation.part", "test.name", "options.command")


def _numbers(value: object) -> bool:
    return all(map(_numbers, value)) if isinstance(value, list) else NUMBER.fits(value)


def expect(value: Any, schema: Schema, name: str = "") -> None:
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
    further entries. held_out: the names of the data sets that were evaluated after each epoch."""
    needed: Record = {"event": TEXT, "step": COUNT, "epoch": COUNT}
    of_epoch, of_change = (record.get("event") == event for event in ("epoch", "change"))
    parts = ["train_", *(f"{name}_" for name in held_out)] if of_epoch else [""]
    metrics = [f"{part}{metric}" for part in parts for metric in ("loss", "accuracy")]
    needed |= {"settings": OBJECT} if of_change else dict.fromkeys(["lr", *metrics], NUMBER)
    needed |= {metric: (NUMBER, NOTHING) for metric in needed if metric.endswith("accuracy")}
    for key, kind in needed.items():
        if key not in record:
            raise ValueError(f"{name}.{key} is missing")
        expect(record[key], kind, f"{name}.{key}")
    return of_epoch


# --- the comparison of a run with a stored one -------------------------------------------------


def in_current_form(value: object) -> Any:
    """Descriptions of layers and optimizers as this version writes them: with today's names of classes and algorithms,
    and with defaults for settings that an older version did not store."""
    if isinstance(value, list):
        return [in_current_form(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {key: in_current_form(entry) for key, entry in value.items()}
    if "algo" in found:
        with contextlib.suppress(ValueError, TypeError):
            found["algo"] = algorithms.full_name(found["algo"])
    if layer := _layer(value.get("layer")):
        return _defaults(layer) | found | {"layer": name_of(layer)}
    if optimizer := (OPTIMIZERS | {Groups.name: Groups}).get(str(value.get("optimizer"))):
        return _defaults(optimizer) | found | {"optimizer": optimizer.name}
    return found


def _layer(name: Any) -> Any:
    with contextlib.suppress(ValueError, TypeError):
        return layer_class(name)
    return None


def _defaults(kind: type) -> Record:
    known = {entry.name: entry.default for entry in dataclasses.fields(kind) if entry.init}
    return {name: as_json(default) for name, default in known.items() if default is not dataclasses.MISSING}


def _as_written_now(settings: Record) -> Record:
    """The settings as this version writes them. Entries that it cannot read stay as they are, and are reported as
    different."""
    found = in_current_form(ABSENT | settings)
    for name, again in TEXTS.items():
        if name in found:
            with contextlib.suppress(ValueError, TypeError):
                found[name] = again(found[name])
    return found | {name: ABSENT_DATA | found[name] for name in ("train", "validation", "test") if found.get(name)}


def differences(stored: object, current: object, name: str = "") -> list[str]:
    """The differences between two JSON values in words, such as "optimizer.lr is 0.1 there and 0.2 here"; "there" is
    `stored`. An entry that only one of them has is a difference, too."""
    if isinstance(stored, dict) and isinstance(current, dict):
        keys = [*stored, *(key for key in current if key not in stored)]
        return [
            line
            for key in keys
            for line in differences(
                stored.get(key, _GONE), current.get(key, _GONE), f"{name}.{key}" if name else str(key)
            )
        ]
    if isinstance(stored, list) and isinstance(current, list) and len(stored) == len(current):
        return [
            line
            for at, (one, other) in enumerate(zip(stored, current))
            for line in differences(one, other, f"{name}[{at}]")
        ]
    if isinstance(stored, list) and isinstance(current, list):
        same = next((at for at, (one, other) in enumerate(zip(stored, current)) if one != other), None)
        counts = f"{name} has {len(stored)} entries there and {len(current)} here"
        return [counts] if same is None else [*differences(stored[same], current[same], f"{name}[{same}]"), counts]
    if stored == current:
        return []
    there, here = ("absent" if side is _GONE else short_json(side) for side in (stored, current))
    return [f"{name or 'it'} is {there} there and {here} here"]


def setting_differences(there: Record, here: Record, only: tuple[str, ...] | None = None) -> list[str]:
    """The differences between the settings of a stored run (there) and of this one (here), in words. only: the names of
    the settings to compare; None compares all."""
    there, here = _as_written_now(there), _as_written_now(here)
    # Older versions did not store these options for runs started in Python.
    unnoted = [name for name in NOTES if name not in there["options"]]
    here["options"] = {name: value for name, value in here["options"].items() if name not in unnoted}
    if only is not None:
        there, here = ({key: side[key] for key in only if key in side} for side in (there, here))
    return differences(without_places(there), without_places(here))


def without_places(settings: Record) -> Record:
    """Settings without the location of data and the wording of the command line."""
    dropped = {tuple(place.split(".")) for place in PLACES}
    return {
        key: {name: value for name, value in entry.items() if (key, name) not in dropped}
        if isinstance(entry, dict)
        else entry
        for key, entry in settings.items()
    }


def without_frozen(config: object) -> Any:
    """A net's config without the `frozen` entries, which a callback may change during a run."""
    if isinstance(config, dict):
        return {name: without_frozen(value) for name, value in config.items() if name != "frozen"}
    return [*map(without_frozen, config)] if isinstance(config, list) else config


def check_net(path: str | os.PathLike[str], checkpoint: Checkpoint, net: Layer) -> None:
    """Raise CheckpointError, naming the first difference, if a checkpoint belongs to another net than `net`, or if its
    weights are not finite. Which layers are frozen does not matter. The net may have no weights (initialize=False)."""
    unseeded = {"seed": None}  # ignores the seed of the initial weights
    there, here = (
        without_frozen(config) for config in (in_current_form(checkpoint.state["net"]), as_json(net.config()))
    )
    found = differences(there | unseeded, here | unseeded)
    if found:
        raise CheckpointError(f"{path} is a checkpoint of another net: {found[0]}")
    check_arrays(path, checkpoint.part("net"), net)


def check_arrays(
    path: str | os.PathLike[str], there: dict[str, np.ndarray], net: Layer, same_dtype: bool = True
) -> None:
    """Raise CheckpointError that names the first array that is missing, does not belong to the net, has another shape
    or dtype, or holds NaN or, except in a buffer, infinity.

    same_dtype: False accepts floats of any dtype that fit into the net's dtype."""
    found: list[str] = []
    variables = {key: layer.variables[name] for key, layer, name in net.named_variables()}
    own = {
        key: layer.arrays.get(name, variables[key].stand_in(layer.dtype)) for key, layer, name in net.named_variables()
    }
    for name in [*own, *there]:
        if name not in own or name not in there:
            found.append(f"{name} is {'not part of this net' if name in there else 'missing'}")
        elif tuple(own[name].shape) != there[name].shape:
            found.append(f"{name} has shape {there[name].shape} there and {tuple(own[name].shape)} here")
        elif own[name].dtype != there[name].dtype and (same_dtype or not is_float(there[name].dtype)):
            found.append(f"{name} is {there[name].dtype.name} there and {own[name].dtype.name} here")
    if found:
        raise CheckpointError(f"{path} is a checkpoint of another net: {found[0]}")
    for name, array in there.items():
        if np.isnan(array).any():
            raise CheckpointError(f"{path}: {name} holds NaN ({np.isnan(array).sum()} of {array.size} values)")
        if not variables[name].buffer and np.isinf(array).any():
            raise CheckpointError(f"{path}: {name} holds infinity ({np.isinf(array).sum()} of {array.size} values)")
        try:
            converted(name, array, own[name].dtype)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None


def load_net(path: str | os.PathLike[str], net: Layer) -> Checkpoint:
    """Load the weights and buffers of the checkpoint at `path` into `net`. If this raises, `net` is unchanged."""
    checkpoint = load(path)
    check_net(path, checkpoint, net)
    net.load_state_dict(checkpoint.part("net"))
    return checkpoint


def as_json(value: object) -> Any:
    """A value as it comes back from JSON: tuples become lists, and NumPy's numbers become Python's."""
    return json.loads(json.dumps(value, default=_to_json))


def _to_json(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be stored as JSON")
