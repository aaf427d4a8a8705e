"""The copy of the repository that checks run in, where gpuconv is a complete package without installation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", "venv", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
)
# Left behind in the root alone: tests/fixtures/runs belongs to the tests.
_LEFT_BEHIND_IN_THE_ROOT = shutil.ignore_patterns("runs", "wheels", "*.zip")


def copy_repository(out: Path, scratch: Path) -> Path:
    """A copy in which gpuconv/kernels is a link to kernels/, as pyproject.toml maps it. out: a folder that is not
    copied."""
    home = scratch / "gpuconv-gate"

    def ignored(folder: str, names: list[str]) -> set[str]:
        # If this repository is such a copy itself, its link gpuconv/kernels is left out; a new one is made below.
        excluded = {out, ROOT / "kernels"} if Path(folder) != ROOT else {out}
        left = _LEFT_BEHIND(folder, names) | {name for name in names if (Path(folder) / name).resolve() in excluded}
        return left | (_LEFT_BEHIND_IN_THE_ROOT(folder, names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, home, ignore=ignored, symlinks=True)
    (home / "gpuconv" / "kernels").symlink_to(Path("..") / "kernels")
    return home


def commit_here() -> str:
    try:
        head, changed = (
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
            ).stdout.strip()
            for words in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("-dirty" if changed else "")
