"""Text for terminals and messages: without invisible characters, on one line, padded to a width."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def printable(text: str) -> str:
    """The text with invisible characters escaped: ESC would control the terminal, and U+202E would reverse
    the line."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def one_line(text: object) -> str:
    """The text as one line, with single spaces."""
    return " ".join(str(text).split())


def size_text(lengths: Iterable[int]) -> str:
    """The lengths of axes as one word, such as "32x32x3"; `parse_numbers.volume` reads it."""
    return "x".join(map(str, lengths))


def display_width(text: str) -> int:
    """The columns that the text takes on a terminal: East Asian wide letters take two, combining marks none."""
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def padded(text: str, width: int, side: str = "<") -> str:
    """The text padded with spaces to `width` columns of a terminal, on the right, or on the left with side=">"."""
    space = " " * (width - display_width(text))
    return text + space if side == "<" else space + text
