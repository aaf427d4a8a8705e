"""Commands that can be pasted into a shell, with any path quoted."""

from __future__ import annotations

import os
import shlex
import sys


def command(*words: str | os.PathLike[str]) -> str:
    """The words as one line for bash, zsh or ksh. Pass paths as `Path`, so that none is read as an option."""
    return " ".join(_quoted(os.fspath(word), isinstance(word, os.PathLike)) for word in words)


def _quoted(word: str, is_path: bool) -> str:
    if is_path and word.startswith("-"):
        word = os.path.join(os.curdir, word)
    if _survives_printing(word):
        return shlex.quote(word)
    escaped = (chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:,@%"


def _survives_printing(word: str) -> bool:
    """Whether a terminal shows the characters unchanged, even if it collapses runs of spaces."""
    try:
        word.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return word.isprintable() and " ".join(word.split()) == word
