"""A trained net as its checkpoint describes it, without the data it was trained on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from gpuconv import backends
from gpuconv.cli.errors import UserError, asked
from gpuconv.cli.settings import Settings

HOME = Path("runs")


@dataclasses.dataclass
class Run:
    """A net with what it needs to look at an image."""

    path: Path
    net: Any
    settings: Settings
    classes: list[str]
    normalization: Any
    input_shape: tuple[int, int, int]


def notes(classes: Any, normalization: Any, input_shape: Any) -> dict[str, Any]:
    """What a run stores for `open_run`, JSON-able."""
    return {
        "classes": list(classes),
        "mean": normalization.mean.tolist(),
        "std": normalization.std.tolist(),
        "input_shape": list(input_shape),
    }


def open_run(directory: str | Path, device: str) -> Run:
    """The net of a run directory's last checkpoint, on a device. Raises UserError for a directory without one."""
    from gpuconv.data import Normalization
    from gpuconv.layers import Layer
    from gpuconv.training import RunDirectory, checkpoint

    with asked():
        run = RunDirectory.open(directory)
        stored = checkpoint.load(run.last)
        options = stored.state["settings"]["options"]
        if "command" not in options:
            raise ValueError(f"{directory} was not started by `gpuconv train`")
        net = Layer.from_config(stored.state["net"], device=device)
        net.load_state_dict(stored.part("net"))
        normalization = Normalization(options["mean"], options["std"])
    return Run(
        run.path, net, Settings(**options["command"]), options["classes"], normalization, tuple(options["input_shape"])
    )


def newest() -> Path:
    """The run that was changed last in `runs`. Raises UserError when there is none."""
    found = list(HOME.glob("*/last.safetensors"))
    if not found:
        raise UserError("no run is named and there is none in ./runs; `gpuconv train` makes one")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def choose_device(options: argparse.Namespace) -> str:
    """The device that was asked for, or the one that "auto" takes; says which, and why."""
    with asked():
        if options.device.lower() == "auto":
            device, why = backends.choose()
        else:
            device, why = backends.resolve(options.device), "as you asked"
    line("device", f"{device} ({' '.join(why.split())})")
    return device


def line(name: str, text: Any) -> None:
    """One of the lines that say what is about to happen."""
    print(f"{name:11}{text}", flush=True)
