"""All modules and the main commands work under `python -W error`, and under `python -OO`, which drops assertions and
docstrings."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.sources import ROOT

PROGRAM = """
import importlib, pkgutil, sys
import gpuconv
from gpuconv.cli.main import main

for module in pkgutil.walk_packages(gpuconv.__path__, "gpuconv."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            if (error.name or "gpuconv").startswith("gpuconv"):
                raise
run = "runs/digits-digits-net-1"
for line in (
    "train --epochs 1",
    f"evaluate {run}",
    f"predict image.png --run-dir {run}",
    f"explain {run} image.png --layer conv2 --at 3,3,7",
    f"explain {run} image.png --layer conv2 --at 3,3,7 --device emulated",
    f"train --resume {run}",
    f"export {run} net.onnx",
    "verify --device emulated --op relu --dtype float32",
):
    if main(line.split()) != 0:
        sys.exit(line)
print("optimize", sys.flags.optimize, "warnings", sys.warnoptions)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [["-OO"], ["-W", "error"]], ids=" ".join)
def test_every_module_imports_and_the_main_commands_run(tmp_path, options):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnx")
    image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "image.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = "optimize 2 warnings []" if options == ["-OO"] else "optimize 0 warnings ['error']"
    assert done.stdout.splitlines()[-1] == expected
