"""States of a run saved by the user: numbered checkpoints in its folder."""

from __future__ import annotations

from pathlib import Path


def numbers(run_dir: Path) -> list[int]:
    stems = (path.stem.removeprefix("saved-") for path in run_dir.glob("saved-*.safetensors"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def file(run_dir: Path, number: int) -> Path:
    return run_dir / f"saved-{number}.safetensors"
