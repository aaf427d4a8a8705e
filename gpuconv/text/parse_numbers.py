"""Numbers in users' text: plain ASCII numerals, not everything that Python's int and float accept."""

from __future__ import annotations

import math


def integer(text: str) -> int:
    """The integer in `text`. ValueError for anything else, including "1_0" and "\uff11"."""
    return int(_expect_plain(text))


def real(text: str) -> float:
    """The number in `text`, including "nan" and "inf". ValueError for anything else, including "1_0.5"."""
    return float(_expect_plain(text))


LONGEST = 1000  # characters; Python itself refuses to read integers of more than 4300 digits


def is_digits(text: str) -> bool:
    """Whether `text` consists of ASCII digits only, at most LONGEST."""
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST


def volume(text: str, axes: int) -> tuple[int, ...]:
    """The lengths of `axes` axes, each above 0, from text such as "32x32x3". ValueError for anything else."""
    sides = text.lower().split("x")
    if len(sides) != axes or not all(map(is_digits, sides)) or not math.prod(map(int, sides)):
        raise ValueError(f"expected a size written {'x'.join(['32', '32', '3'][:axes])}, received {text!r}")
    return tuple(map(int, sides))


def _expect_plain(text: str) -> str:
    if "_" in text or not text.isascii() or len(text) > LONGEST:
        raise ValueError(f"{text!r} is not a plain numeral")
    return text
