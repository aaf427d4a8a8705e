"""A content-addressed cache on disk, of compiled kernels and of choices among them.

An entry is a folder named by the digest of everything its content depends on. It is filled in a private folder and
renamed into place, so that two processes filling one at once are safe, and it carries a digest of its own files, so
that a damaged entry is made anew instead of loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from gpuconv import files

_DIGEST = "digest"


class Cache:
    """Entries under one folder, which is created when the first entry is."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, name: str, key: Iterable[str], fill: Callable[[Path], None]) -> Path:
        """Return the folder of the entry for `key`; where there is none, or a damaged one, `fill` makes its files.

        name: what a person sees in the folder's name. key: everything the content depends on. fill: receives an empty
        folder to write into; what it raises passes through and leaves no entry.
        """
        key = list(key)
        if found := self.find(name, key):
            return found
        done = contextlib.ExitStack()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            made = done.enter_context(files.scratch(self.root))
        except OSError as error:
            self._retreat(error)
            return self.entry(name, key, fill)
        with done:
            fill(made)
            (made / _DIGEST).write_text(_content_digest(made))
            return _move(made, self._folder(name, key))

    def find(self, name: str, key: Iterable[str]) -> Path | None:
        """The folder of a whole entry, or None."""
        folder = self._folder(name, key)
        return folder if _is_whole(folder) else None

    def _folder(self, name: str, key: Iterable[str]) -> Path:
        digest = hashlib.sha256()
        for part in key:
            encoded = part.encode(errors="surrogateescape")  # a path may hold bytes that are no text
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return self.root / f"{name}-{digest.hexdigest()[:32]}"

    def _retreat(self, error: OSError) -> None:
        """Use a private folder for this process where the chosen one cannot be written."""
        private = Path(tempfile.mkdtemp(prefix="gpuconv-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        warnings.warn(
            f"gpuconv cannot write its cache ({error}); kernels are compiled anew in each process. "
            "Set GPUCONV_CACHE_DIR to a folder that can be written.",
            RuntimeWarning,
            stacklevel=2,
        )
        self.root = private


def _content_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name != _DIGEST:
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / _DIGEST).read_text() == _content_digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _move(made: Path, folder: Path) -> Path:
    """Put a finished entry in its place: a damaged one there makes way, a whole one (another process's) stays."""
    for _ in range(8):
        try:
            made.rename(folder)
            return folder
        except OSError:
            if _is_whole(folder):
                return folder
            with files.scratch(folder.parent) as aside, contextlib.suppress(FileNotFoundError):
                folder.rename(aside / "entry")  # unless another process cleared it first
    raise OSError(f"could not replace the damaged cache entry {folder}")


def directory() -> Path:
    """Where compiled kernels are kept: GPUCONV_CACHE_DIR, or the user's cache folder of this platform."""
    if chosen := os.environ.get("GPUCONV_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "gpuconv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gpuconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpuconv"


@cache
def _cache_at(root: Path) -> Cache:
    return Cache(root)


def default() -> Cache:
    """The cache of this process."""
    return _cache_at(directory())
