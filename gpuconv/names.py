"""Looks names up in tables, suggesting the nearest one on a miss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: object, table: Mapping[str, T]) -> T:
    """Return ``table[name]``. Upper and lower case are the same, and so are ``_`` and ``-``.

    Raises TypeError if `name` is not a string and ValueError, naming the nearest known name, if the table has no such
    entry. `kind` is what the message calls an entry: "model", "optimizer", ...
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
    raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(table) or 'none'})")


def canonical(kind: str, name: object, names: Iterable[str]) -> str:
    """The name as spelled in `names`. Raises as `lookup` does."""
    return lookup(kind, name, {known: known for known in names})


def canonical_keys(kind: str, given: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """`given`, with its keys as spelled in `names`. Raises as `lookup` does, and ValueError for two spellings of a
    name."""
    known = [*names]
    keys: dict[str, str] = {}
    for key in given:
        if (first := keys.setdefault(canonical(kind, key, known), key)) != key:
            raise ValueError(f"{kind} {first!r} is given twice, the second time as {key!r}")
    return {name: given[key] for name, key in keys.items()}


def distinct(kind: str, given: Iterable[object], names: Iterable[str]) -> list[str]:
    """The given names as spelled in `names`, each of them once. Raises as `lookup` does."""
    table = {known: known for known in names}
    return list(dict.fromkeys(lookup(kind, name, table) for name in given))


def _normalized(name: str) -> str:
    return name.lower().replace("-", "_")
