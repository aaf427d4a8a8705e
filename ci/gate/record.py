"""The record of a run of the gate: gate.json and logs.zip, complete after each check."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict

from ci.gate.commands import Gate
from ci.gate.results import Result, verdicts
from gpuconv.system import files


def write(gate: Gate, results: Sequence[Result], running: str | None) -> None:
    """Writes gate.json and, between checks, logs.zip. running: the check that runs now, which gate.json still names if
    the gate is killed; None between checks."""
    data = {
        "commit": gate.commit,
        "device": gate.facts.get("name", gate.device),
        "running": running,
        "checks": [asdict(each) for each in results],
        "verdicts": [vars(each) for each in verdicts(results)],
    }
    files.write(gate.out / "gate.json", (json.dumps(data, indent=1) + "\n").encode())
    if running is None:
        files.write(gate.out / "logs.zip", _zipped(gate))


def _zipped(gate: Gate) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(gate.logs.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(gate.logs))
    return packed.getvalue()
