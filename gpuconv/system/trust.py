"""Checks that no other user can have made or changed a file. Files that are loaded and run must belong to this user or
root."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path


def doubt(path: Path) -> str:
    """Who apart from this user and root could change the file or folder `path`, in words; "" if nobody could.

    A link is refused, whatever its target. A group counts as others unless it has this user's name and no other member.
    On Windows nothing is checked, because permissions there are access-control lists.
    """
    if os.name != "posix":
        return ""
    found = os.lstat(path)
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return f"{path} is neither a file nor a folder"
    if found.st_uid not in (os.getuid(), 0):
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_own_group(path, found.st_gid)):
        return f"others can write {path}"
    return ""


def doubt_about_path(path: Path) -> str:
    """`doubt` about a folder and all folders above it. Those above may be sticky, like /tmp, where nobody can rename
    another user's file."""
    if os.name != "posix":
        return ""
    folder = path.resolve()
    above = (doubt(parent) for parent in folder.parents if not _is_shared(parent))
    return doubt(folder) or next(filter(None, above), "")


def keep_from_others(folder: Path) -> None:
    """Let others read, but not write, a folder of our files."""
    for file in folder.iterdir():
        file.chmod(file.stat().st_mode & 0o755 | 0o644)
    folder.chmod(0o755)


def make_folder(path: Path) -> None:
    """Make a folder that others cannot write, and missing folders above it, whatever the umask."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(0o755, exist_ok=True)


def _is_shared(folder: Path) -> bool:
    found = os.stat(folder)
    return bool(found.st_mode & stat.S_ISVTX) and found.st_uid in (os.getuid(), 0)


def _is_own_group(path: Path, number: int) -> bool:
    """Whether the group is the private one that many systems create for each user, and no access list admits others."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    list_attributes: Callable[[Path], list[str]] = getattr(os, "listxattr", lambda _: [])
    return alone and "system.posix_acl_access" not in list_attributes(path)
