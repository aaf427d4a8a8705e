"""Replaces addresses of instructions in messages by lines of the .cu file."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path


def with_lines(message: str, library: Path) -> str:
    """Replace each "{pc ...}", an address in the library, with its file and line."""
    return re.sub(r"\{pc ([0-9a-f]+)\}", lambda match: _line(match[1], library), message)


@functools.lru_cache(maxsize=4096)
def _line(pc: str, library: Path) -> str:
    """The file and line of an address in a library, or the address if there is no addr2line."""
    address = hex(int(pc, 16) - 1)  # inside the call instruction: the given address follows it
    tool = shutil.which("addr2line")
    if tool is None:
        return address
    command = [tool, "-e", str(library), address]
    output = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    return Path(output.split(" (")[0].strip()).name or address
