"""config.toml of a run directory: the settings with which `gpuconv train --config` repeats the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from gpuconv import losses
from gpuconv.data import from_spec as data_spec
from gpuconv.training import optimizers, schedules
from gpuconv.types import Record
from gpuconv.version import __version__

Entry = tuple[str, object, str]  # a setting, its value, and why the command line cannot take it ("" if it can)
OWN = "made by the program"


def text(settings: Record) -> str:
    """The settings of run.json as a TOML table with a heading."""
    command = settings.get("options", {}).get("command")
    heading = [f"# gpuconv {__version__}: the settings of this run, for `gpuconv train --config FILE`"]
    if isinstance(command, dict):
        entries: Iterator[Entry] = ((name, value, "") for name, value in command.items())
    else:
        heading.append(
            "# A Python program started the run. The command line cannot take the marked entries as they are: replace"
        )
        heading.append("# them. Callbacks, metrics and settings for which there is no option are left out.")
        entries = _of_program(settings)
    return "\n".join([*heading, *(line for entry in entries for line in _lines(*entry))]) + "\n"


def _lines(name: str, value: object, why: str) -> Iterator[str]:
    if why:
        yield f"# {name}: {why}"
    if value is not None:
        yield f"{name} = " + json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _of_program(settings: Record) -> Iterator[Entry]:
    train = settings.get("train") or {}
    data = train.get("name", "batches")
    tested = (settings.get("test") or {}).get("name", data)
    lacks_test = tested == data and data_spec.is_whole(data)
    why = "the run trained on all of it; name a test set" if lacks_test else ""
    yield "data", data, why if _can_read(data_spec.with_full_name, data) else OWN
    if tested != data:
        yield "test", tested, "" if _can_read(data_spec.with_full_name, tested) else OWN
    yield "model", "FILE.py:build", f"{OWN}: name a file, and the function in it that makes the net"
    yield "seed", settings.get("seed"), ""
    yield "epochs", settings.get("epochs"), ""
    yield "batch_size", train.get("batch_size"), "" if "batch_size" in train else OWN
    yield from _optimizer(settings.get("optimizer", {}))
    schedule = settings.get("schedule", "constant")
    yield "schedule", schedule, "" if _can_read(schedules.get, schedule) else OWN
    for name in ("plateau", "clip", "ema", "accumulate", "shards"):
        if value := settings.get(name):
            yield name, value, ""
    if settings.get("sync_batch_norm"):
        yield "sync_batch_norm", 1, ""
    yield "augment", train.get("augmentation", "none"), ""
    yield _loss(settings.get("loss", "none"))
    yield "precision", settings.get("precision", "float32"), ""
    if part := (settings.get("validation") or {}).get("part"):
        yield "validation", part, ""


def _optimizer(config: Record) -> Iterator[Entry]:
    try:
        made = optimizers.get(**config)
    except (ValueError, TypeError):
        yield "optimizer", str(config.get("optimizer")), OWN
        return
    if isinstance(made, optimizers.Groups):
        yield "optimizer", made.groups, ""
    else:
        yield "optimizer", _short_form(made.name, made, but="lr"), ""
    yield "lr", made.lr, ""


def _loss(described: str) -> Entry:
    try:
        loss = losses.read(described)
    except ValueError:
        return "loss", described, OWN
    name = next(name for name, kind in losses.LOSSES.items() if kind is type(loss))
    return "loss", _short_form(name, loss), ""


def _short_form(name: str, made: Any, but: str = "") -> str:  # noqa: ANN401 - a dataclass
    """The short form of a dataclass, such as "adam:beta1=0.8". Fields with their default, and the field `but`, are left
    out."""
    fields = [field for field in dataclasses.fields(made) if field.init and field.name != but]
    changed = {field.name: getattr(made, field.name) for field in fields if getattr(made, field.name) != field.default}
    return f"{name}:{','.join(f'{key}={_text(value)}' for key, value in changed.items())}" if changed else name


def _text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _can_read(read: Callable[[str], object], value: str) -> bool:
    try:
        read(value)
    except (ValueError, TypeError):
        return False
    return True
