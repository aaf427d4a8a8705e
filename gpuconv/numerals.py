"""Numbers in what a user writes: plain ASCII numerals, not all that Python's own int and float read."""

from __future__ import annotations

import math


def integer(text: str) -> int:
    """The integer that `text` writes. ValueError for anything else, "1_0" and "\uff11" among it."""
    return int(_plain(text))


def real(text: str) -> float:
    """The number that `text` writes, "nan" and "inf" too. ValueError for anything else, "1_0.5" among it."""
    return float(_plain(text))


def is_digits(text: str) -> bool:
    """Whether `text` is an integer from 0 on, in digits alone."""
    return text.isascii() and text.isdecimal()


def volume(text: str, axes: int) -> tuple[int, ...]:
    """The lengths of `axes` axes, each above 0, as "32x32x3" writes them. ValueError, saying so, for anything else."""
    sides = text.lower().split("x")
    if len(sides) != axes or not all(map(is_digits, sides)) or not math.prod(map(int, sides)):
        raise ValueError(f"expected a size written {'x'.join(['32', '32', '3'][:axes])}, received {text!r}")
    return tuple(map(int, sides))


def _plain(text: str) -> str:
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is no plain numeral")
    return text
