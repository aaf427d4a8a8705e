"""The ops of a backend, from the files that define them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any


def defined_in(*files: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that these modules define, by name: those of ``__all__`` where a module has that."""
    found: dict[str, Callable[..., Any]] = {}
    for file in files:
        for name, function in inspect.getmembers(file, inspect.isfunction):
            public = name in file.__all__ if hasattr(file, "__all__") else not name.startswith("_")
            if public and function.__module__ == file.__name__:
                found[name] = function
    return found
