"""Reads a run of `gpuconv train` or `Trainer.fit`: its checked settings, and the net of its checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import nets, run_settings, shared_options
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.run_settings import Settings
from gpuconv.system.shell import command
from gpuconv.types import Json, Record

if TYPE_CHECKING:
    from gpuconv.data import Normalization
    from gpuconv.layers.registry import UndefinedLayerError
    from gpuconv.layers.sequential import Sequential


HOME = Path("runs")


@dataclasses.dataclass
class Run:
    """A net with its settings and metadata. The net of `run_of` has no weights. `open_run` sets progress, how far the
    net was trained, such as "after 1 of 3 epochs", and classifies, whether the loss does."""

    net: Sequential
    settings: Settings
    classes: list[str]
    normalization: Normalization | None  # None if the net was trained on floats
    input_shape: tuple[int, int, int]
    stored: Record
    progress: str = ""
    classifies: bool = True

    @property
    def started_in_python(self) -> bool:
        """Whether `Trainer.fit` started the run, not a command line."""
        return started_in_python(self.stored)


def started_in_python(stored: Record) -> bool:
    return "command" not in stored.get("options", {})


def run_of(stored: Record, path: str | os.PathLike[str]) -> Run:
    """The run described by stored settings. Raises UserError that names a missing, unknown or wrong entry."""
    from gpuconv.data import Normalization
    from gpuconv.training.run_schemas import COUNT, NUMBERS, OBJECT, TEXT, expect

    options = stored.get("options", {})
    schema = {"command": OBJECT, "classes": [TEXT], "mean": NUMBERS, "std": NUMBERS, "input_shape": [COUNT]}
    by_command = "command" in options
    schema |= {} if by_command else {"live_command": {"weights": TEXT, "whiten": COUNT}}
    with _errors_of_entry(path, "options"):
        known = {name: value for name, value in options.items() if by_command or name in schema}
        expect(known, schema, "options")
        for name in schema:
            if name not in options and by_command:
                raise ValueError(f"{name} is missing")
    with _errors_of_entry(path, "options.command"):
        settings = run_settings.from_stored(options["command"]) if by_command else run_settings.from_python_run(stored)
    with _errors_of_entry(path, "net"):
        net = _net_without_weights(stored.get("net"), settings.model)
    if not by_command and len(net.output_shape or ()) != 1:
        raise UserError(
            f"the net of {path} gives a volume of shape {net.output_shape} for each image, and the command line takes "
            "nets with a score for each class: use gpuconv.load(run) and fit(resume=True) in Python"
        )
    classes = options.get("classes") or [str(number) for number in range((net.output_shape or (0,))[-1])]
    input_shape = tuple(options.get("input_shape", net.input_shape))
    with _errors_of_entry(path, "options.classes"):
        if net.output_shape != (len(classes),):
            raise ValueError(f"{len(classes)} names, and the net has outputs of shape {net.output_shape}")
    with _errors_of_entry(path, "options.input_shape"):
        if input_shape != net.input_shape:
            raise ValueError(f"{input_shape}, and the net takes {net.input_shape}")
        if len(input_shape) != 3:
            raise ValueError(f"{input_shape} is not the shape (H, W, C) of an image")
    normalization = None
    with _errors_of_entry(path, "options"):
        if "mean" in options and "std" in options:
            normalization = Normalization(options["mean"], options["std"])
        for name in ("mean", "std") if normalization else ():
            shape = getattr(normalization, name).shape
            if shape not in (input_shape, input_shape[-1:]):
                raise ValueError(f"{name} must be of shape {input_shape[-1:]} or {input_shape}, received {shape}")
    return Run(net, settings, classes, normalization, input_shape, stored)


@contextmanager
def _errors_of_entry(path: str | os.PathLike[str], name: str) -> Iterator[None]:
    """A context that converts errors into a UserError about this entry of the stored settings."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"the settings stored in {path} cannot be used: {name}: {error}") from error


def _net_without_weights(config: Json, model: str) -> Sequential:
    """A net without weights. Raises ValueError for an invalid config. If a layer comes from a file that was not
    imported, raises UserError, which names the option to give. model: the run's --model."""
    from gpuconv.layers import Layer
    from gpuconv.layers.registry import UndefinedLayerError

    try:
        net = Layer.from_config(config, initialize=False)
    except UndefinedLayerError as error:
        raise file_needed(error, model) from error
    except Exception as error:  # a config written by hand can fail in any way
        raise ValueError(str(error) or type(error).__name__) from error
    if net.output_shape is None:
        raise ValueError("the net does not begin with an Input")
    return net


def file_needed(error: UndefinedLayerError, model: str = "") -> UserError:
    """The error for a net with a layer from a file that was not imported. model: the run's --model."""
    layer = re.search("'.*?'", str(error))
    return UserError(
        f"the net has the layer {layer[0] if layer else ''}, which a file of yours defines; the file's code is run "
        f"only if you name the file: {command('--model', model if nets.is_in_file(model) else 'FILE.py')}"
    )


def open_run(directory: str | Path, device: str, which: str = "last", model: str | None = None) -> Run:
    """The net of a run directory's "last" or "best" checkpoint, on a device. model: the file that defines some of the
    net's layers. Raises FileNotFoundError if there is no run, UserError if there is no such checkpoint, and
    CheckpointError if the checkpoint is corrupt or does not fit."""
    from gpuconv import checkpoint, losses
    from gpuconv.layers import Layer
    from gpuconv.training import RunDirectory, check_weights, run_schemas
    from gpuconv.training.trained_net import checkpoint_file

    run = RunDirectory.open(directory)
    nets.import_file(model)
    run_of(run.settings(), run.settings_file)
    with user_errors():
        file = checkpoint_file(directory, which)
    loaded = checkpoint.load(file)
    state = run_schemas.state(loaded.state, file)
    found = run_of(state["settings"] | {"net": state["net"]}, file)
    check_weights.check_net(file, loaded, found.net)
    with user_errors():
        found.net = Layer.from_config(state["net"], device=device)
        found.net.load_state_dict(loaded.part("net"))
    found.net.classes, found.net.normalization = found.classes, found.normalization
    found.progress = f"after {state['epoch']} of {found.settings.epochs} epochs"
    if steps := state["batch"]:
        found.progress += f" and {steps} step{'s' * (steps > 1)}"
    try:
        found.classifies = losses.classifies(losses.read(found.settings.loss))
    except ValueError:  # a user's loss, which is not known here; its records tell
        found.classifies = all(record.get("train_accuracy", 1) is not None for record in state["records"])
    return found


def expect_normalization(run: Run) -> Normalization:
    """The run's normalization. Raises UserError for a run whose net was not trained on uint8 images, which image files
    contain."""
    if run.normalization is None:
        raise UserError(
            "this run has no normalization of images, as it was trained on floats in Python: use gpuconv.load(run) "
            "and net.predict or gpuconv.evaluate there, with floats"
        )
    return run.normalization


def expect_classes(run: Run) -> None:
    """Raise UserError for a run whose loss has a target for each score, so that an image has no class."""
    if not run.classifies:
        raise UserError(
            f"the loss of this run, {run.settings.loss}, has a target for each score, so an image has no class: "
            "use gpuconv.load(run) and net.predict or gpuconv.evaluate in Python"
        )


def add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--which", choices=["last", "best"], default="last", help="the last checkpoint, or that after the best epoch"
    )


def settings_to_resume(directory: str, chosen: Record) -> Settings:
    """The settings stored with a run. Raises UserError if given settings differ from these, and names them. The
    locations of the data and of the net's file may differ, because both may have moved."""
    from gpuconv.training import RunDirectory

    run = RunDirectory.open(directory)
    if nets.is_in_file(model := chosen.get("model", "")):
        nets.import_file(model)
    settings = run_of(run.settings(), run.settings_file).settings
    if nets.is_in_file(settings.model):
        if not model:
            raise UserError(
                f"the net of {directory} is made by code in a file, which is run only if you name the file: "
                f"{command('--model', settings.model)}"
            )
        if nets.is_in_file(model):  # the file may have moved
            settings = dataclasses.replace(settings, model=nets.with_file_of(model, settings.model))
            chosen = chosen | {"model": settings.model}
    stored = run_settings.with_full_names(dataclasses.asdict(settings))
    others = {
        name: f"{shared_options.option(name)} is {stored[name]} there, {value} here"
        for name, value in chosen.items()
        if value != stored[name] and name not in ("data", "test")
    }
    if others:
        weights = f"; one that begins with the weights of this run takes {command('--weights', run.path)}"
        raise UserError(
            f"{directory} continues with the settings it was started with: {'; '.join(others.values())} (leave "
            f"{'it' if len(others) == 1 else 'them'} out, or start a new run{'' if 'model' in others else weights})"
        )
    return settings


def newest_run() -> Path:
    """The most recently changed run in `runs`. Raises UserError if there is none."""
    found = list(HOME.glob("*/last.safetensors"))
    if not found:
        raise UserError("no run is given, and there is none in ./runs; `gpuconv train` makes one")
    return max(found, key=lambda path: path.stat().st_mtime).parent
