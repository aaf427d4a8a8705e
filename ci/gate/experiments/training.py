"""A short run of the digits recipe with CUDA graphs, shared by two questions."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path

from ci.gate.experiments import Answer

LEAST = 96.5  # per cent, on the test digits


def run(device: str, small: bool, precision: str) -> Answer:
    from gpuconv.cli import main

    output = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        words = ["train", "--device", device, "--run-dir", str(Path(folder) / "run"), "--precision", precision]
        words += ["--data", "synthetic:n=64,size=8x8x1", "--epochs", "1", "--batch-size", "32"] if small else []
        status = main(words)
    return judge(output.getvalue(), status, 0.0 if small else LEAST)


def judge(output: str, status: int, least: float = LEAST) -> Answer:
    print(output)
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "nothing")
    if status:
        return "no", f"status {status}: {last}"
    if uncaptured := [line for line in output.splitlines() if "without a CUDA graph" in line]:
        return "no", f"the step was not captured: {uncaptured[0]}"
    found = re.fullmatch(r"test accuracy (\d+\.\d+)%", last)
    if not found:
        return "no", f"the last line is not an accuracy: {last}"
    return ("yes" if float(found[1]) >= least else "no"), f"{last}, at least {least} % expected"
