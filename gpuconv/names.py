"""Looks names up in tables, suggesting the nearest one on a miss, and prints names safely."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: object, table: Mapping[str, T]) -> T:
    """Return ``table[name]``. Upper and lower case are the same, and so are ``_`` and ``-``.

    Raises TypeError if `name` is not a string and ValueError, naming the nearest known name, if the table has no such
    entry. `kind` names it in the message ("model", "optimizer", ...).
    """
    if not isinstance(name, str):
        raise TypeError(f"the {kind} is chosen by name, received {type(name).__name__}: {name!r}")
    if name in table:  # fast path for the names in calls of ops
        return table[name]
    by_plain = {_normalized(known): known for known in table}
    if _normalized(name) in by_plain:
        return table[by_plain[_normalized(name)]]
    import difflib  # needed only for errors; importing it takes a millisecond

    near = difflib.get_close_matches(_normalized(name), list(by_plain), n=1, cutoff=0.5)
    hint = f"; did you mean {by_plain[near[0]]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(table)})")


def canonical(kind: str, name: object, names: Iterable[str]) -> str:
    """The name as spelled in `names`. Raises as `lookup` does."""
    return lookup(kind, name, {known: known for known in names})


def _normalized(name: str) -> str:
    return name.lower().replace("-", "_")


def printable(text: str) -> str:
    """The text with invisible characters escaped: ESC would control the terminal, U+202E reverse the line."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def one_line(text: object) -> str:
    """The text as one line, with single spaces."""
    return " ".join(str(text).split())


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
