"""`gpuconv train --resume` for a run that `Trainer.fit` started, with the settings stored in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuconv.cli import json_output, nets, shadow_report, shared_options
from gpuconv.cli.device_option import choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.runs import expect_normalization, run_of, started_in_python
from gpuconv.parallel import Ranks
from gpuconv.system.console import say
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.data import Dataset, Loader, Samples
    from gpuconv.layers.sequential import Sequential
    from gpuconv.training.callback_base import Callback
    from gpuconv.training.fit_loaders import Loaders
    from gpuconv.training.rundir import RunDirectory


PARTS = ("train", "validation", "test")


def resume(options: argparse.Namespace, chosen: Record, callbacks: Sequence[Callback], ranks: Ranks) -> int:
    """Continue the run. Raises UserError if the run needs something that exists only in the program that started it: a
    loss, an optimizer, a schedule, a layer or images.

    chosen: the settings given on the command line. ranks: the ranks that train together; each reads the run."""
    from gpuconv.layers import Layer
    from gpuconv.layers.saving import NOTES
    from gpuconv.training import DataError, DivergedError, RunDirectory, SettingsError, ShadowError, Trainer

    directory = options.resume
    nets.import_file(chosen.get("model"))
    if others := [shared_options.option(name) for name in chosen if name not in ("data", "test", "model")]:
        raise UserError(f"{directory} continues with the settings it was started with; leave {', '.join(others)} out")
    run = RunDirectory.open(directory)
    stored = run.settings()
    _expect_started_in_python(run)
    expect_normalization(run_of(stored, run.settings_file))
    arguments = _arguments(stored, directory)
    parts = data_sets(stored, options.data, options.test)
    device = choose_device(options)
    with user_errors():
        net = Layer.from_config(stored["net"], device=device)
        trainer = Trainer(
            net,
            **arguments,
            precision=stored.get("precision", "float32"),
            graph=options.graph,
            shadow=options.shadow,
            violation=options.on_violation,
            parallel=ranks,
            shard_optimizer=options.shard_optimizer,
        )
        loaders: Loaders = {part: _loader(stored, part, parts[part], net) for part in PARTS if part in parts}
    print_line("run", f"{directory} (continued)\n")
    extra = {name: value for name, value in stored.get("options", {}).items() if name not in NOTES}
    try:
        history = trainer.fit(
            loaders.pop("train"),
            epochs=stored["epochs"],
            run_dir=directory,
            resume=True,
            settings=extra,
            metrics_every=stored["metrics_every"],
            callbacks=callbacks,
            checkpoint_every=options.checkpoint_every,
            test_at_end=bool((stored.get("test") or {}).get("at_end")),
            **loaders,
        )
    except (DataError, DivergedError, SettingsError, ShadowError) as error:
        raise UserError(str(error)) from error
    json_output.note(run=directory, epochs=history, steps=trainer.steps, stopped=trainer.stop_reason)
    shadow_report.print_shadow(trainer.shadowed, None if ranks.rank else run.shadow)
    json_output.note(tested=trainer.tested)
    if trainer.interrupted_by:
        return 128 + trainer.interrupted_by
    end = trainer.tested or (history[-1] if history else {})
    for name in ("validation_accuracy", "test_accuracy"):
        if end.get(name) is not None:
            say(f"{name.replace('_', ' ')} {100 * end[name]:.2f}%", "stdout")
    return 0


def _arguments(stored: Record, directory: str) -> Record:
    """The trainer's arguments. Raises UserError if one of them exists only in the run's program."""
    from gpuconv.training.from_settings import trainer_arguments

    try:
        return trainer_arguments(stored)
    except (ValueError, TypeError) as error:
        raise UserError(f"{directory} was started in Python and can be continued only there: {error}") from error


def _expect_started_in_python(run: RunDirectory) -> None:
    """Raise UserError if the checkpoint shows that a command line started the run, but run.json lacks the command."""
    from gpuconv import checkpoint
    from gpuconv.training.run_schemas import state

    if run.last.exists() and not started_in_python(state(checkpoint.load(run.last).state, run.last)["settings"]):
        raise UserError(
            f"the settings stored in {run.settings_file} cannot be used: options.command is missing; {run.last} has it"
        )


def data_sets(stored: Record, data: str | None, test: str | None) -> Record:
    """The data sets of a run, by part. Looks for their checksums among the data sets that `data` and `test` describe,
    by default among those that the run names. Raises UserError if one is not found."""
    from gpuconv.data import from_spec

    stored_parts = {part: stored[part] for part in PARTS if stored.get(part)}
    train_name, test_name = (stored_parts.get(part, {}).get("name", "") for part in ("train", "test"))
    name = data or train_name
    with user_errors():
        try:
            whole = not test and from_spec.is_whole(train_name)
            known = from_spec.stored_sets(name) if whole else [*from_spec.load(name, test or "")]
            if not test and test_name not in ("", train_name):  # a separate test set
                known += from_spec.stored_sets(test_name)
        except ValueError as error:
            raise ValueError(f"{error}; give the location of the run's images: --data SPEC") from error
        train = known[0]
        if "validation" in stored_parts:
            share = stored_parts["validation"].get("images", 0) / len(train)
            # The share differs slightly from the fraction that was asked for, because each class is rounded.
            for fraction in {round(share, digits) for digits in range(1, 7)}:
                if 0 < fraction < 1:
                    known += train.split(fraction, seed=stored["seed"], what="validation")
    found = {}
    for part, kept in stored_parts.items():
        same = [one for one in known if one.checksum() == kept.get("checksum")]
        if not same:
            raise UserError(f"the run's {part} images are not among those of {name}; give --data SPEC")
        found[part] = same[0]
    return found


def _loader(stored: Record, part: str, data: Dataset | Samples, net: Sequential) -> Loader:
    from gpuconv.data import Augmentation, Normalization
    from gpuconv.data.stream_loader import make_loader

    settings, options = stored[part], stored["options"]
    made = make_loader(
        data,
        settings["batch_size"],
        normalization=Normalization(options["mean"], options["std"]),
        seed=settings["seed"],
        augmentation=Augmentation.parse(settings.get("augmentation", "none")),
        shuffle=settings["shuffle"],
        drop_last=settings.get("drop_last", False),
        device=net.device,
        dtype=net.dtype,
    )
    made.part = settings.get("part")
    return made
