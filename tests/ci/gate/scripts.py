"""Shell scripts in the place of commands and tools."""

from __future__ import annotations

from pathlib import Path


def write_tool(folder: Path, name: str, script: str) -> None:
    """Write an executable shell script with that name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]
