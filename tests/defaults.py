"""Compares default arguments with a table; tells whether dataclasses are frozen, compare by value and have a hash."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any


def look_up(path: str):
    """The object of gpuconv with a path such as "data.loader:Loader.epoch"."""
    module, _, names = path.partition(":")
    value = importlib.import_module(f"gpuconv.{module}")
    for name in names.split("."):
        value = getattr(value, name)
    return value


def defaults(function) -> dict[str, Any]:
    """The default of each parameter that has one."""
    parameters = inspect.signature(function).parameters.items()
    return {name: entry.default for name, entry in parameters if entry.default is not entry.empty}


def expect_defaults(table: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Checks the default arguments. table: all parameters with defaults, and these, by module and function."""
    for module, functions in table.items():
        for name, expected in functions.items():
            assert defaults(look_up(f"{module}:{name}")) == expected, name


def dataclass_flags(paths: list[str]) -> Iterator[tuple[str, list[bool]]]:
    """For each dataclass: whether it is frozen, compares by value, and is hashable."""
    for path in paths:
        kind = look_up(path)
        yield path, [kind.__dataclass_params__.frozen, kind.__dataclass_params__.eq, kind.__hash__ is not None]


IMMUTABLE_VALUE = [True, True, True]  # flags of a frozen dataclass that compares by value
IMMUTABLE_WITH_ARRAYS = [True, False, True]  # compares by identity, because == of arrays gives no single truth value
