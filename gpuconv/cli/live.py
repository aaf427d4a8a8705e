"""Train with a live web page: curves, activations, top-5 scores and controls, at http://127.0.0.1:8600.

Without options it trains on the handwritten digits that come with gpuconv. With RUN_DIR it shows a run of `gpuconv
train`, of `fit` or of this command; a run that has not ended can be continued. Ctrl-C finishes the step and saves."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import option_types, resume_python_run, run_settings, shared_options, streams
from gpuconv.cli.device_option import add_device, choose_with_reason
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.initial_net import set_initial_weights
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.run_data import load_data, split_validation
from gpuconv.cli.runs import expect_normalization, run_of, started_in_python
from gpuconv.types import Options, Record

if TYPE_CHECKING:
    from gpuconv.data import Dataset, Samples
    from gpuconv.live.session import Session


EXAMPLES = [
    "gpuconv live",
    "gpuconv live --data cifar10:data --model tiny-vgg --port 8601",
    "gpuconv live runs/digits-digits-net-1",
    "gpuconv live --repeat runs/live-digits-digits-net-1",
]

NOT_IN_LIVE = ("weights", "early_stopping", "tta", "shards", "sync_batch_norm")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?", help="a run to show (default: start a new one)")
    shared_options.add_options(parser, only=[name for name in shared_options.OPTIONS if name not in NOT_IN_LIVE])
    add_device(parser)
    parser.add_argument(
        "--port", type=_port, default=8600, metavar="N", help="the port to listen on (default: 8600; 0: any free port)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on (default: 127.0.0.1, which only this machine can reach; at another "
        "address, such as 0.0.0.0, the page requires the token that its printed URL contains)",
    )
    parser.add_argument(
        "--repeat", metavar="DIR", help="repeat a run from the start, with each change at the step where it was made"
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv import live
    from gpuconv.cli import nets

    streams.tolerate_lost_stdout()
    with user_errors():
        live.expect_installed()
    chosen = run_settings.from_options(options)
    if options.run_dir and options.repeat:
        raise UserError("RUN_DIR shows a run and --repeat repeats one; leave one of them out")
    stored = options.run_dir or options.repeat
    if stored and (others := [shared_options.option(name) for name in chosen if name not in ("data", "test", "model")]):
        raise UserError(f"{stored} has its own settings; leave {', '.join(others)} out")
    if stored:
        nets.import_file(chosen.get("model"))
        session = partial(_session_of_run, options, stored)
    else:
        session = partial(_new_session, options, run_settings.with_recipe(chosen))
    live.serve(session, host=options.host, port=options.port, ready=_ready)
    return 0


def _new_session(options: argparse.Namespace, settings: run_settings.Settings) -> Session:
    from gpuconv import live, losses
    from gpuconv.cli import nets
    from gpuconv.data import load
    from gpuconv.training import optimizers, schedules

    with user_errors():
        data, test = load(settings.data, settings.test)
        train, validation = split_validation(settings, data)
        sets = live.DataSplits(train, validation, test)
    validating = f"{len(validation):,} to validate on, " if validation else ""
    print_line("data", f"{train.name}: {len(train):,} images to train on, {validating}{len(test):,} to test on")
    device, why = choose_with_reason(options)
    with user_errors():
        net = nets.build(
            settings.model,
            input_shape=train.image_shape,
            classes=len(train.classes),
            seed=settings.seed,
            initialize=False,
        )
        recipe = {
            "net": net.config(),
            "precision": settings.precision,
            "optimizer": optimizers.get(settings.optimizer, lr=settings.lr).config(),
            "loss": losses.describe(losses.get(settings.loss)),
            "schedule": str(schedules.get(settings.schedule)),
            "seed": settings.seed,
            "epochs": settings.epochs,
            "train": {"batch_size": settings.batch_size, "augmentation": settings.augment},
            "validation": {"part": settings.validation} if settings.validation else None,
            "plateau": None if settings.plateau == "none" else settings.plateau,
            "clip": None if settings.clip == "none" else settings.clip,
            "ema": settings.ema or None,
            "accumulate": settings.accumulate,
            "options": _to_store(settings),
        }
        name = f"live-{run_settings.short_name(settings)}"
        return live.Session(sets, recipe, device=device, why=why, name=name, **_preparation(settings, train))


def _to_store(settings: run_settings.Settings) -> Record:
    """The entry of a recipe's options that describes the initial weights; `run_settings.from_python_run` reads it."""
    return {"live_command": {"weights": settings.weights, "whiten": settings.whiten}}


def _preparation(settings: run_settings.Settings, train: Dataset | Samples) -> Options:
    """The arguments of `Session` for new runs of these settings."""
    return {
        "prepare": lambda net: set_initial_weights(net, settings, train, net.normalization),
        "prepared": _to_store(settings),
    }


def _session_of_run(options: argparse.Namespace, directory: str) -> Session:
    """The session of a run or, with --repeat, of a new run that repeats it. If the run has no test images, the training
    images stand in for them."""
    from gpuconv import checkpoint, live
    from gpuconv.live import setting_changes
    from gpuconv.training import RunDirectory
    from gpuconv.training.run_schemas import state

    run_directory = RunDirectory.open(directory)
    settings = run_directory.settings()
    found = run_of(settings, run_directory.settings_file)
    expect_normalization(found)
    if started_in_python(settings):
        by_part = resume_python_run.data_sets(settings, options.data, options.test)
        test = by_part["test" if "test" in by_part else "train"]
        sets = live.DataSplits(by_part["train"], by_part.get("validation"), test)
    else:
        train, test = load_data(found.settings, options.data, options.test)
        sets = live.DataSplits(*split_validation(found.settings, train), test)
    device, why = choose_with_reason(options)
    preparation = _preparation(found.settings, sets.train)
    with user_errors():
        last = state(checkpoint.load(run_directory.last).state, run_directory.last)
        if options.repeat:
            name, repeat = Path(directory).name, setting_changes.changes_of(last["records"])
            return live.Session(sets, settings, device=device, why=why, name=name, repeat=repeat, **preparation)
        return live.Session(sets, last["settings"], device=device, why=why, run_dir=Path(directory), **preparation)


def _ready(address: str) -> None:
    print_line("page", f"{address}\n")


def _port(text: str) -> int:
    number = option_types.count(0)(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, received {text!r}")
    return number
