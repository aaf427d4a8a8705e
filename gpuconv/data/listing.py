"""Lists the image files in a folder with one sub-folder for each class, and counts other files."""

from __future__ import annotations

import collections
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from gpuconv.images.image_file import readable_suffixes
from gpuconv.notices import notice

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}


def list_images(directory: Path) -> dict[str, list[Path]]:
    """The sorted image files under each sub-folder of `directory`, at any depth, by the sub-folder's name.

    Hidden files are ignored. Links are followed, but each folder is entered only once per class. A notice counts other
    files.

    Raises:
        FileNotFoundError: There is no such folder, it has no class, a class has no image, or an entry beside the
            classes is a dangling link. (Inside a class, a dangling link only counts as another file.)
        NotADirectoryError: `directory` is not a folder.
        OSError: A folder cannot be read.
        ImportError: Pillow is not installed.
    """
    if not directory.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(directory))
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is not a folder", str(directory))
    suffixes = readable_suffixes()
    classes: dict[str, list[Path]] = {}
    others = collections.Counter[str]()
    for path, status in _entries(directory):
        if status is None:
            raise FileNotFoundError(errno.ENOENT, f"is a link to nothing ({os.readlink(path)})", str(path))
        if not stat.S_ISDIR(status.st_mode):
            others[_kind(path, status)] += 1
            continue
        classes[path.name], more = _files_of_class(path, directory, suffixes)
        if not classes[path.name]:
            raise FileNotFoundError(f"class folder {path} has no images ({' '.join(suffixes)}){_listed(more, '; ')}")
        others += more
    if not classes:
        raise FileNotFoundError(
            f"{directory} must hold one sub-folder of images for each class; it has none{_listed(others, '; ')}"
        )
    if others:
        notice(f"{directory}: files that are not read: {_listed(others)}")
    return classes


def _files_of_class(folder: Path, root: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], collections.Counter[str]]:
    files, others = [], collections.Counter[str]()
    above = root.resolve()
    entered = {_identity(os.stat(path)) for path in (folder, above, *above.parents)}
    pending = [folder]
    while pending:
        for path, status in _entries(pending.pop()):
            if status is None:
                others["dangling link"] += 1
            elif stat.S_ISDIR(status.st_mode):
                if _identity(status) in entered:
                    others["link to a folder above or read already"] += 1
                else:
                    entered.add(_identity(status))
                    pending.append(path)
            elif stat.S_ISREG(status.st_mode) and path.suffix.lower() in suffixes:
                files.append(path)
            else:
                others[_kind(path, status)] += 1
    return sorted(files), others


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result | None]]:
    """The sorted entries of a folder, except hidden ones; the status is None for a dangling or circular link."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            yield path, path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            yield path, None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _kind(path: Path, status: os.stat_result) -> str:
    default = path.suffix.lower() or "file without a suffix"
    return _KINDS.get(stat.S_IFMT(status.st_mode), default)


def _listed(others: collections.Counter[str], before: str = "") -> str:
    """ "3 x .heic, 1 x dangling link", after `before`; empty if there are none."""
    return before * bool(others) + ", ".join(f"{count} x {kind}" for kind, count in sorted(others.items()))
