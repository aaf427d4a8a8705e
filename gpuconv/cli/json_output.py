"""A command's results as one JSON document, which `--json` prints instead of the text."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import numpy as np

from gpuconv.types import Json, Record

_DOCUMENT: ContextVar[Record | None] = ContextVar("the document of this command", default=None)


@contextlib.contextmanager
def collect() -> Iterator[Record]:
    """A context whose document the command fills in; printed text is dropped."""
    document: Record = {}
    token = _DOCUMENT.set(document)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield document
    finally:
        _DOCUMENT.reset(token)


def note(**facts: object) -> None:
    """Add facts to the document, if there is one."""
    if (document := _DOCUMENT.get()) is not None:
        document.update(plain(facts))


def add(name: str, entry: object) -> None:
    """Append an entry to the document's list of that name, if there is a document."""
    if (document := _DOCUMENT.get()) is not None:
        document.setdefault(name, []).append(plain(entry))


def last_value() -> Record:
    """The value that was noted last, a dictionary for the caller to fill in. Without a document it is a dictionary that
    is discarded."""
    document = _DOCUMENT.get()
    return next(reversed(document.values())) if document else {}


def text(document: Record) -> str:
    return json.dumps(document, indent=2, allow_nan=False)


def plain(value: object) -> Json:
    """`value` for JSON, with null for NaN and infinity."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
