"""Descriptive IDs for parametrized tests."""

from __future__ import annotations

import types

import numpy as np

from gpuconv.text.plain_text import size_text

LONGEST = 60  # characters


def identify(value, name: str) -> str | None:
    """The part of a test's name for one argument: "stride=2", "2x3x5", "momentum=0.9,nesterov=True".

    None leaves the choice to pytest, which shows text as it is.
    """
    if isinstance(value, str):
        return None if value else f"{name}=''"
    if isinstance(value, types.FunctionType) and value.__name__ == "<lambda>":
        return _calls_and_constants(value.__code__)
    if isinstance(value, (type, types.FunctionType)):
        return value.__name__
    if isinstance(value, BaseException):
        return type(value).__name__
    return f"{name}={_text(value)}" if _is_bare(value) else _text(value, name)


def _is_bare(value) -> bool:
    """Whether its text says nothing without a name."""
    return value is None or isinstance(value, (bool, int, float, np.generic))


def _text(value, name: str = "") -> str:
    if isinstance(value, (tuple, list, dict)) and not value:
        return f"no {name}".strip()
    if isinstance(value, tuple) and len(value) > 1 and all(type(entry) is int and entry >= 0 for entry in value):
        return size_text(value)
    if isinstance(value, (tuple, list)):
        text = ",".join(map(_text, value))[:LONGEST]
        return f"{name}={text}" if name and all(_is_bare(entry) for entry in value) else text
    if isinstance(value, dict):
        return ",".join(f"{key}={_text(entry)}" for key, entry in value.items())[:LONGEST]
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of {size_text(value.shape) or 'no axes'}"
    if isinstance(value, str) and value.replace(".", "").isdecimal():
        return repr(value)  # "2" is not the number 2
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text[:LONGEST]


def _calls_and_constants(code: types.CodeType) -> str:
    """The names that a lambda uses, and its constants: "pop net.conv1.weight"."""
    constants = [entry for entry in code.co_consts if isinstance(entry, (str, int, float))]
    return " ".join(map(str, [*code.co_names, *constants]))[:LONGEST] or "identity"
