"""A cache on disk for compiled kernels, for the tuner's choices of algorithms, and for the prover's verdicts.

An entry is a folder named by the digest of everything its content depends on. It is filled in a private folder and
renamed into place, so that processes can fill the same entry at the same time. It contains a digest of its files, so
that a damaged entry is replaced instead of loaded.

Compiled kernels are executed, so an entry is used only if it, its files and its parent folders belong to this user or
root, and others cannot replace them: only a sticky folder such as /tmp may be open to others. On Windows this is not
checked.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from gpuconv.notices import notice
from gpuconv.system import files, trust
from gpuconv.system.files import describe_error

_DIGEST = "digest"


class Cache:
    """Entries under one folder, which is created with the first entry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._private: Path | None = None  # a private folder of this process, if the root cannot be used

    def entry(self, name: str, key: Iterable[str], fill: Callable[[Path], None]) -> Path:
        """Return the folder of the entry for `key`; if there is none, or a damaged one, `fill` makes its files.

        name: a readable part of the folder's name. key: everything the content depends on. fill: receives an empty
        folder to write into. If it raises OSError, for example because the disk is full, it is called again, with a
        folder in a temporary cache of this process. Another error is passed on, and no entry is made.
        """
        key = list(key)
        if found := self.find(name, key):
            return found
        folder = _folder_name(name, key)
        if not self._private:
            try:
                return _make_entry(_own_folder(self.root) / folder, fill)
            except OSError as error:
                self._private = _private_folder(error)
        return _make_entry(self._private / folder, fill)

    @property
    def folder(self) -> Path:
        """The folder in which entries are made."""
        return self._private or self.root

    def forget(self, name: str, key: Iterable[str]) -> None:
        """Remove the entry for `key`, if there is one that this process can remove."""
        for root in filter(None, (_real(self.root), self._private)):
            with contextlib.suppress(OSError), files.scratch(root) as aside:
                (root / _folder_name(name, key)).rename(aside / "entry")

    def find(self, name: str, key: Iterable[str]) -> Path | None:
        """The folder of a complete entry, or None."""
        folder = _folder_name(name, key)
        root = _real(self.root)
        if _is_complete(root / folder) and not trust.doubt_about_path(root):
            return root / folder
        if self._private and _is_complete(self._private / folder):
            return self._private / folder
        return None


def _real(folder: Path) -> Path:
    """The folder without links. `Path.resolve` would raise RuntimeError for links that form a loop."""
    return Path(os.path.realpath(folder))


def _own_folder(root: Path) -> Path:
    """The folder, created if missing. Raises OSError if others can write to it."""
    root = _real(root)
    trust.make_folder(root)
    if why := trust.doubt_about_path(root):
        raise PermissionError(why)
    return root


def _folder_name(name: str, key: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in key:
        encoded = part.encode(errors="surrogateescape")  # a path may contain bytes that are not text
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return f"{name}-{digest.hexdigest()[:32]}"


def _private_folder(error: OSError) -> Path:
    """A private folder for this process, if the chosen one cannot be used."""
    private = Path(tempfile.mkdtemp(prefix="gpuconv-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    notice(
        f"gpuconv cannot keep kernels in its cache ({describe_error(error)}): kernels not in it are compiled again "
        "in each process. Set GPUCONV_CACHE_DIR to a folder that you, and nobody else, can write."
    )
    return private


def _content_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name != _DIGEST:
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _is_complete(folder: Path) -> bool:
    try:
        if any(trust.doubt(path) for path in (folder, *folder.iterdir())):
            return False
        return (folder / _DIGEST).read_text(encoding="utf-8") == _content_digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _make_entry(folder: Path, fill: Callable[[Path], None]) -> Path:
    with files.scratch(folder.parent) as filled:
        fill(filled)
        (filled / _DIGEST).write_text(_content_digest(filled), encoding="utf-8")
        trust.keep_from_others(filled)
        return _move(filled, folder)


def _move(filled: Path, folder: Path) -> Path:
    """Move a finished entry to its place. It replaces a damaged entry; a complete one (from another process) is
    kept."""
    for _ in range(8):
        try:
            filled.rename(folder)
            return folder
        except OSError:
            if _is_complete(folder):
                return folder
            with files.scratch(folder.parent) as aside, contextlib.suppress(FileNotFoundError):
                folder.rename(aside / "entry")  # fails if another process removed it first
    raise OSError(f"could not replace the damaged cache entry {folder}")


def directory() -> Path:
    """Where compiled kernels are kept: GPUCONV_CACHE_DIR, or the folder that platformdirs would choose.

    platformdirs itself is not used, because it makes a folder called "~" for a user without a home.
    """
    if chosen := os.environ.get("GPUCONV_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))  # container settings may give it as "~/cache"
    if sys.platform == "win32":
        if chosen := os.environ.get("LOCALAPPDATA"):
            return Path(chosen) / "gpuconv" / "Cache"
        return _in_home("AppData", "Local", "gpuconv", "Cache")
    if sys.platform == "darwin":
        return _in_home("Library", "Caches", "gpuconv")
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "gpuconv"
    return _in_home(".cache", "gpuconv")


def _in_home(*parts: str) -> Path:
    """A folder in the user's home or, for a user without one, a folder of this user in the temporary folder."""
    try:
        return Path.home().joinpath(*parts)
    except RuntimeError:  # no HOME and no account, as in a container that runs under a numeric user ID
        user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # on Windows each user has a temporary folder
        return Path(tempfile.gettempdir()) / f"gpuconv{user}"


@cache
def _cache_at(root: Path) -> Cache:
    return Cache(root)


def default() -> Cache:
    """The cache of this process."""
    return _cache_at(directory())
