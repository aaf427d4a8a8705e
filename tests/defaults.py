"""Compares default arguments and the behavior of records with tables, which the tests of each package hold."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any


def found(path: str):
    """The object of gpuconv with a path such as "data.loader:Loader.epoch"."""
    module, _, names = path.partition(":")
    value = importlib.import_module(f"gpuconv.{module}")
    for name in names.split("."):
        value = getattr(value, name)
    return value


def defaults(function) -> dict[str, Any]:
    return {name: entry.default for name, entry in inspect.signature(function).parameters.items()}


def expect(table: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Checks the default arguments. table: parameters and their defaults, by module and function."""
    for module, functions in table.items():
        for name, expected in functions.items():
            given = defaults(found(f"{module}:{name}"))
            assert {key: given.get(key, "gone") for key in expected} == expected, name


def flags(paths: list[str]) -> Iterator[tuple[str, list[bool]]]:
    """For each record: whether it is frozen, compares by value, and is hashable."""
    for path in paths:
        kind = found(path)
        yield path, [kind.__dataclass_params__.frozen, kind.__dataclass_params__.eq, kind.__hash__ is not None]


VALUE, WITH_ARRAYS = [True, True, True], [True, False, True]  # == of arrays gives no single truth value
