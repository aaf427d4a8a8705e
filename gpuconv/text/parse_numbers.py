"""Numbers in users' text: plain ASCII numerals, not everything that Python's int and float accept."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

NumberT = TypeVar("NumberT", int, float)


def integer(text: str) -> int:
    """The integer in `text`. Raises ValueError for anything else, including "1_0" and "\uff11"."""
    return _converted(text, int, "an integer")


def real(text: str) -> float:
    """The number in `text`, including "nan" and "inf". Raises ValueError for anything else, including "1_0.5"."""
    return _converted(text, float, "a number")


LONGEST = 1000  # characters; Python itself refuses to read integers of more than 4300 digits


def is_digits(text: str) -> bool:
    """Whether `text` consists of ASCII digits only, at most LONGEST."""
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST


def volume(text: str, axes: int) -> tuple[int, ...]:
    """The lengths of `axes` axes, each above 0, from text such as "32x32x3". Raises ValueError for anything
    else."""
    sides = text.lower().split("x")
    if len(sides) != axes or not all(map(is_digits, sides)) or not math.prod(map(int, sides)):
        raise ValueError(f"expected a size written {'x'.join(['32', '32', '3'][:axes])}, received {text!r}")
    return tuple(map(int, sides))


def _converted(text: str, convert: Callable[[str], NumberT], expected: str) -> NumberT:
    if "_" not in text and text.isascii() and len(text) <= LONGEST:
        with contextlib.suppress(ValueError):
            return convert(text)
    raise ValueError(f"expected {expected}, received {text!r}")
