"""Lines of a command's output that name a fact, such as its device or a file."""

from __future__ import annotations

from gpuconv.system.console import is_quiet
from gpuconv.text.plain_text import printable


def print_line(name: str, text: object) -> None:
    """Print a fact after its name, such as "run        runs/one"; nothing with --quiet. Line ends after the text are
    kept, and other control characters are escaped."""
    if is_quiet():
        return
    words = str(text).rstrip("\n")
    print(f"{name:11}{printable(words)}{str(text)[len(words) :]}", flush=True)
