"""The option --shadow, and the report of what the shadow oracle found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import document
from gpuconv.cli.option_types import share
from gpuconv.console import say

if TYPE_CHECKING:
    from gpuconv.training.shadow import Shadow


def add_shadow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow",
        type=share,
        metavar="SHARE",
        help="check calls of ops against the oracle during training, in that share of the time, such as 2%%",
    )
    parser.add_argument(
        "--on-violation",
        choices=["stop", "warn"],
        default="stop",
        help="what --shadow does about an error beyond its bound (default: stop)",
    )


def print_shadow(shadow: Shadow | None, path: Path) -> None:
    """Print what the shadow oracle found, if there was one, and draw it. path: the picture's."""
    from gpuconv import plots

    if shadow is None:
        return
    document.note(shadow={"seconds": shadow.spent, "elapsed": shadow.elapsed, "rows": shadow.report()})
    say(str(shadow), "stdout")
    if any(row.checked for row in shadow.report()):
        try:
            plots.draw(path, shadow.picture)
        except plots.PlotError as error:
            say(f"no {path.name}: {error}")
