"""Look a thing up by its name, and on a miss name the nearest one; print names safely."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``; case, ``_`` and ``-`` do not matter.

    Raises TypeError when `name` is no string and ValueError, naming the nearest known name, when
    the table has no such entry. `kind` is what the error calls it ("model", "optimizer", ...).
    """
    if not isinstance(name, str):
        raise TypeError(f"the {kind} is chosen by name, received {type(name).__name__}: {name!r}")
    if name in table:  # the names that an op is called with, several times a call
        return table[name]
    by_plain = {_plain(known): known for known in table}
    if _plain(name) in by_plain:
        return table[by_plain[_plain(name)]]
    near = difflib.get_close_matches(_plain(name), list(by_plain), n=1, cutoff=0.5)
    hint = f"; did you mean {by_plain[near[0]]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(table)})")


def canonical(kind: str, name: str, names: Iterable[str]) -> str:
    """The name as `names` has it. Raises what `lookup` raises."""
    return lookup(kind, name, {known: known for known in names})


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def printable(text: str) -> str:
    """The text with what cannot be seen escaped: ESC would steer a terminal, U+202E turn the line around."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: East Asian wide letters take two, combining marks none."""
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def padded(text: str, width: int, side: str = "<") -> str:
    """The text with spaces behind it, or before it (`side` ">"), up to that many columns of a terminal."""
    space = " " * (width - columns(text))
    return text + space if side == "<" else space + text
