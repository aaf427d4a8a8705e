"""Compares the settings of a run with those of a stored one.

A setting that an older version did not store gets a default value: from `ABSENT` for a setting of the run, from
`ABSENT_DATA` for one of a data set, and from the class for one of a layer or an optimizer. A renamed class keeps its
old name as a second entry of its table (`LAYERS`, `OPTIMIZERS`, `LOSSES`, `SCHEDULES`, `MODELS`), so that stored runs
find it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuconv import algorithms, losses
from gpuconv.checkpoint import as_json, short_json
from gpuconv.layers.registry import layer_class, name_of
from gpuconv.layers.saving import NOTES
from gpuconv.training import schedules
from gpuconv.training.clip import Clip
from gpuconv.training.optimizers import OPTIMIZERS, Groups
from gpuconv.training.plateau import Plateau
from gpuconv.types import Json, Record

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
_NUMPY_NUMBER = re.compile(r"np\.((?:float|u?int)\d+)\(([^()]*)\)")
_DECIMAL = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?")


def _in_15_digits(text: str) -> str:
    """The text with its decimals in 15 digits, as many as an older version wrote."""
    return _DECIMAL.sub(lambda match: f"{float(match[0]):.15g}", text)


def _with_pythons_numbers(text: str) -> str:
    """The text with Python's numbers in place of NumPy's, which an older version wrote as "np.float32(0.1)"."""
    return _NUMPY_NUMBER.sub(lambda match: repr(getattr(np, match[1])(match[2]).item()), text)


TEXTS: dict[str, Callable[[str], str]] = {  # rewrite a text with today's names and every option
    "loss": losses.redescribed,
    "schedule": lambda text: _in_15_digits(str(schedules.get(text))),
    "plateau": lambda text: text and str(Plateau.of(text)),
    "clip": lambda text: text and str(Clip.of(text)),
}

_GONE: Any = object()  # stands for a missing entry

# Settings that are not compared. The names of the data and the part split off for validation are left out because the
# checksums of the data are compared. The command line is left out because the settings that it makes are compared.
NOT_COMPARED = ("train.name", "validation.name", "validation.part", "test.name", "options.command")


def in_current_form(value: Json) -> Json:
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


def _layer(name: Json) -> type[Any] | None:
    with contextlib.suppress(ValueError, TypeError):
        return layer_class(name)
    return None


def _defaults(kind: type) -> Record:
    known = {entry.name: entry.default for entry in dataclasses.fields(kind) if entry.init}
    return {name: as_json(default) for name, default in known.items() if default is not dataclasses.MISSING}


def _as_written_now(settings: Record) -> Record:
    """The settings as this version writes them, except that the decimals of a schedule are rounded to 15 digits.
    Entries that this version cannot read are unchanged."""
    found = in_current_form(ABSENT | settings)
    for name, again in TEXTS.items():
        if name in found:
            with contextlib.suppress(ValueError, TypeError):
                text = found[name]
                found[name] = again(_with_pythons_numbers(text) if isinstance(text, str) else text)
    return found | {name: ABSENT_DATA | found[name] for name in ("train", "validation", "test") if found.get(name)}


def differences(stored: object, current: object, name: str = "") -> list[str]:
    """The differences between two JSON values in words, such as "optimizer.lr is 0.1 there and 0.2 here"; "there" is
    `stored`. An entry that only one of them has is a difference, too. Of two lists of different lengths, only the first
    entry that differs and the lengths are named."""
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
        first = next((at for at, (one, other) in enumerate(zip(stored, current)) if one != other), None)
        counts = f"{name} has {len(stored)} entries there and {len(current)} here"
        return [counts] if first is None else [*differences(stored[first], current[first], f"{name}[{first}]"), counts]
    if stored == current:
        return []
    there, here = ("absent" if side is _GONE else short_json(side) for side in (stored, current))
    return [f"{name or 'it'} is {there} there and {here} here"]


def setting_differences(there: Record, here: Record, only: tuple[str, ...] | None = None) -> list[str]:
    """The differences between the settings of a stored run (there) and of this one (here), in words. only: the names of
    the settings to compare; None compares all."""
    there, here = _as_written_now(there), _as_written_now(here)
    # Older versions did not store the options in `NOTES` for runs started in Python.
    unnoted = [name for name in NOTES if name not in there["options"]]
    here["options"] = {name: value for name, value in here["options"].items() if name not in unnoted}
    if only is not None:
        there, here = ({key: side[key] for key in only if key in side} for side in (there, here))
    return differences(compared_settings(there), compared_settings(here))


def compared_settings(settings: Record) -> Record:
    """The settings without those in `NOT_COMPARED`."""
    dropped = {tuple(name.split(".")) for name in NOT_COMPARED}
    return {
        key: {name: value for name, value in entry.items() if (key, name) not in dropped}
        if isinstance(entry, dict)
        else entry
        for key, entry in settings.items()
    }


def without_frozen(config: Json) -> Json:
    """A net's config without the `frozen` entries, which a callback may change during a run."""
    if isinstance(config, dict):
        return {name: without_frozen(value) for name, value in config.items() if name != "frozen"}
    return [*map(without_frozen, config)] if isinstance(config, list) else config
