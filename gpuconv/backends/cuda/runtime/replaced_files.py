"""Replaces shipped .cu files with a user's for a while, and drops what was derived from the shipped ones."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gpuconv.backends.cuda.runtime import source

Prepare = TypeVar("Prepare", bound=Callable[..., Any])

_drops: list[Callable[[], object]] = []  # each drops a cache of what was derived from kernel files


def when_replaced(drop: Callable[[], object]) -> None:
    """Have `drop` called when kernel files are replaced, see `replace_files`."""
    _drops.append(drop)


def until_replaced(prepare: Prepare) -> Prepare:
    """Caches the results of a function until the kernel files on which they depend are replaced (`replace_files`)."""
    cached = functools.lru_cache(maxsize=4096)(prepare)
    when_replaced(cached.cache_clear)
    return cached  # type: ignore[return-value]


def forget() -> None:
    """Drop what was derived from kernel files, except the modules that `kernel.load` returned."""
    for drop in _drops:
        drop()


class Edition(NamedTuple):
    """A user's file with its text when it replaced a shipped file. `kernel.load` caches modules by both, so an edited
    file is not taken for its earlier version."""

    path: Path
    text: str


_replaced: dict[str, Edition] = {}


class _Resolved(dict[str | Path, Path | Edition]):
    """The results of `resolve`. Those of paths relative to the current folder are not kept, because another folder may
    become the current one."""

    def __missing__(self, file: str | Path) -> Path | Edition:
        found = _replaced.get(str(file)) or source.resolve(file)
        if os.path.isabs(file) or not os.path.dirname(file):
            self[file] = found
        return found


_resolved = _Resolved()
when_replaced(_resolved.clear)


# The file that currently stands for a kernel file: the one that replaces it, or else its own path.
resolve: Callable[[str | Path], Path | Edition] = _resolved.__getitem__


@contextlib.contextmanager
def replace_files(files: Mapping[str, Path]) -> Iterator[None]:
    """A context in which the launchers use these .cu files (paths) in place of shipped ones (names)."""
    before = dict(_replaced)
    _replaced.update({name: Edition(path := source.resolve(at), source.flatten(path)) for name, at in files.items()})
    forget()
    try:
        yield
    finally:
        _replaced.clear()
        _replaced.update(before)
        forget()


def replacements() -> dict[str, str]:
    """The paths of the files that currently replace shipped ones, by the shipped files' names."""
    return {name: str(edition.path) for name, edition in _replaced.items()}


def text_of(file: str | Path) -> str:
    """The flat text that `load` of this file compiles."""
    found = resolve(file)
    return source.flatten(found) if isinstance(found, Path) else found.text
