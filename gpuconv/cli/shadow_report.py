"""What the shadow oracle found during training: printed, drawn and put into the JSON output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import json_output
from gpuconv.system.console import say

if TYPE_CHECKING:
    from gpuconv.training.shadow import Shadow


def print_shadow(shadow: Shadow | None, path: Path | None) -> None:
    """Print what the shadow oracle found, if there was one, and draw it into the picture at `path`. On ranks that draw
    nothing, `path` is None."""
    from gpuconv import plots

    if shadow is None:
        return
    json_output.note(shadow={"seconds": shadow.spent, "elapsed": shadow.elapsed, "rows": shadow.report()})
    say(str(shadow), "stdout")
    if path and any(row.checked for row in shadow.report()):
        try:
            plots.draw(path, shadow.picture)
        except plots.PlotError as error:
            say(f"no {path.name}: {error}")
