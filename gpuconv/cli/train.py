"""Train a ConvNet on images, test it on images that it has not seen, and write a run directory.

Without options it trains on the handwritten digits that come with gpuconv. Ctrl-C finishes the step, saves, and prints
how to continue."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuconv.cli import (
    json_output,
    option_types,
    recipes,
    run_settings,
    shadow_option,
    shadow_report,
    shared_options,
    streams,
)
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, expect_place, user_errors
from gpuconv.cli.initial_net import initial_net
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.run_data import load_data, split_validation
from gpuconv.cli.runs import settings_to_resume, started_in_python
from gpuconv.system.console import is_quiet, say
from gpuconv.system.shell import command
from gpuconv.text.plain_text import size_text

if TYPE_CHECKING:
    from gpuconv.data import Dataset, Loader, Normalization, Samples
    from gpuconv.layers.sequential import Sequential
    from gpuconv.parallel import Ranks
    from gpuconv.training import Trainer
    from gpuconv.training.callback_base import Callback
    from gpuconv.types import Options, Record

EXAMPLES = [
    "gpuconv train",
    "gpuconv train --data cifar10:data --model tiny-vgg --epochs 10 --augment flip,shift:4",
    "gpuconv train --data folder:photos,size=32x32 --optimizer adam --lr 0.001 --schedule cosine,warmup:1",
    "gpuconv train --data folder:photos/train,size=32x32 --test folder:photos/test",
    "gpuconv train --data cifar10:data --model airbench94 --recipe airbench94",
    "gpuconv train --resume runs/digits-digits-net-1",
    "gpuconv train --config runs/digits-digits-net-1/config.toml --seed 1",
    "mpiexec -n 2 gpuconv train --shards 4",
    "gpuconv train --model my_net.py:build --validation 0.1 --early-stopping 5",
]


def configure(parser: argparse.ArgumentParser) -> None:
    shared_options.add_options(parser)
    add_device(parser)
    names = ", ".join(recipes.RECIPES)
    parser.add_argument(
        "--config", metavar="FILE", help="settings from a TOML file, such as a run's config.toml; options override it"
    )
    parser.add_argument("--recipe", metavar="NAME", help=f"settings that go together: {names} (default: the net's own)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--run-dir", metavar="DIR", help="a new folder for the run (default: runs/DATA-MODEL-N)")
    where.add_argument("--resume", metavar="DIR", help="continue the run in DIR, with the settings stored there")
    parser.add_argument(
        "--graph",
        action=argparse.BooleanOptionalAction,
        help="replay training steps as CUDA graphs; on emulated, as recorded launches (default: on for cuda)",
    )
    parser.add_argument(
        "--log",
        choices=["tensorboard"],
        help="also log the run for a tracker, in RUN_DIR/tensorboard; changes no result; the run does not store this "
        "option",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=option_types.count(1),
        metavar="STEPS",
        help="also save within epochs; changes no result; the run does not store this option: repeat it with --resume",
    )
    parser.add_argument(
        "--rank-timeout",
        type=option_types.positive,
        default=300.0,
        metavar="SECONDS",
        help="under mpiexec or torchrun: how long another process may take for an answer (default: 300)",
    )
    parser.add_argument(
        "--shard-optimizer",
        action="store_true",
        help="under mpiexec or torchrun: each process keeps the optimizer's state of a part of the parameters; changes "
        "no result; the run does not store this option: repeat it with --resume",
    )
    parser.add_argument(
        "--digests",
        nargs="?",
        const=True,
        metavar="FILE",
        help="record a hash, the sum and the norm of each tensor of every step, for gpuconv bisect (default: RUN_DIR/"
        "digests.jsonl); changes no result; the run does not store this option: repeat it with --resume",
    )
    parser.add_argument(
        "--digests-every",
        type=option_types.count(1),
        metavar="N",
        help="record the layers' outputs and the gradients of their inputs only in the first N steps, in every N-th "
        "step and in the first step written to the file (default: 1, every step); parameters, their gradients and the "
        "loss are recorded in every step",
    )
    shadow_option.add_shadow(parser)


def loggers(options: argparse.Namespace, test: Any = None) -> list[Callback]:  # noqa: ANN401 - labeled data
    """The callbacks of --log and --digests. test: a data set; the activations of its first image are logged."""
    from gpuconv.training import Digests, TensorBoard

    found: list[Callback] = []
    if options.log is not None:
        found.append(TensorBoard(image=test.first(1)[0], truth=int(test.labels[0])) if test else TensorBoard())
    if options.digests is not None:
        every = {} if options.digests_every is None else {"every": options.digests_every}
        found.append(Digests(None if options.digests is True else options.digests, **every))
    return found


def run(options: argparse.Namespace, more_callbacks: Sequence[Callback] = ()) -> int:
    """Train on the processes that mpiexec or torchrun started, or only on this one. Only rank 0 writes and prints."""
    from gpuconv import parallel

    with user_errors():
        ranks = parallel.launched_ranks(options.device, options.rank_timeout)
        options.device = ranks.own_device(options.device)
    with ranks.reporting_errors(), streams.silent(ranks.rank > 0):
        try:
            return _train(options, ranks, more_callbacks)
        except parallel.ParallelError as error:
            raise UserError(str(error)) from error


def _train(options: argparse.Namespace, ranks: Ranks, more_callbacks: Sequence[Callback]) -> int:
    from gpuconv.cli import nets, resume_python_run
    from gpuconv.data import Augmentation
    from gpuconv.data.stream_loader import make_loader
    from gpuconv.training import DataError, DivergedError, EarlyStopping, RunDirectory, SettingsError, ShadowError

    streams.tolerate_lost_stdout()
    chosen, recipe = _chosen_settings(options)
    if options.resume and started_in_python(RunDirectory.open(options.resume).settings()):
        with user_errors():
            callbacks = [*loggers(options), *more_callbacks]
        return resume_python_run.resume(options, chosen, callbacks, ranks)
    settings = ranks.on_rank_0(
        lambda: (
            settings_to_resume(options.resume, chosen) if options.resume else run_settings.with_recipe(chosen, recipe)
        )
    )
    named_directory = options.resume or options.run_dir

    with user_errors():
        train, validation, test = _load_sets(options, settings)
    device = choose_device(options)
    with user_errors():
        begun = ranks.on_rank_0(lambda: bool(named_directory) and RunDirectory(named_directory).last.exists())
        net, normalization = initial_net(settings, train, device, begun=begun)
        trainer = _trainer(options, settings, net, ranks)
        common: Options = {"normalization": normalization, "device": device, "dtype": net.dtype}
        augmentation = Augmentation.parse(settings.augment)
        loader = make_loader(train, settings.batch_size, augmentation=augmentation, seed=settings.seed, **common)
        held_out = make_loader(test, settings.batch_size, shuffle=False, **common)
        more: Options = {"callbacks": [*loggers(options, test), *more_callbacks]}
        if settings.early_stopping:
            more["callbacks"].append(EarlyStopping(settings.early_stopping))
        if validation:
            more["validation"] = make_loader(validation, settings.batch_size, shuffle=False, **common)
            more["test_at_end"] = True
    if ranks.size > 1:
        print_line("ranks", ranks)
    print_line(
        "model", f"{nets.stem(settings.model)}: {sum(value.size for value in net.params().values()):,} parameters"
    )
    print_line("recipe", settings)
    with user_errors():
        directory = ranks.on_rank_0(lambda: named_directory or run_settings.new_directory(settings))
    print_line("run", f"{directory}{' (continued)' if options.resume else ''}\n")

    try:
        history = trainer.fit(
            loader,
            epochs=settings.epochs,
            test=held_out,
            settings={"command": run_settings.to_store(settings)},
            run_dir=directory,
            resume=bool(options.resume),
            checkpoint_every=options.checkpoint_every,
            **more,
        )
    except (DataError, DivergedError, SettingsError, ShadowError) as error:
        raise UserError(str(error)) from error
    finally:
        if not named_directory and ranks.rank == 0:
            with contextlib.suppress(OSError):  # the folder is not empty
                os.removedirs(directory)
    json_output.note(run=directory, epochs=history, steps=trainer.steps, stopped=trainer.stop_reason)
    shadow_report.print_shadow(trainer.shadowed, None if ranks.rank else RunDirectory(directory).shadow)
    if trainer.interrupted_by:
        return 128 + trainer.interrupted_by
    if ranks.rank == 0:
        with trainer.averaged():
            _print_files(directory, net, test, normalization, settings)
        _print_accuracy((trainer.tested or history[-1])["test_accuracy"], trainer, held_out, settings.tta)
    return 0


def _chosen_settings(options: argparse.Namespace) -> tuple[Record, str | None]:
    """The settings and the recipe that the options and the --config file name; the options win."""
    from gpuconv.cli import config
    from gpuconv.names import lookup

    if options.resume and options.recipe:
        raise UserError(f"{options.resume} continues with the settings it was started with; leave --recipe out")
    if options.digests_every is not None and options.digests is None:
        raise UserError("--digests-every is for --digests, which is not given")
    if options.on_violation != "stop" and options.shadow is None:
        raise UserError(f"--on-violation {options.on_violation} is for --shadow, which is not given")
    if isinstance(options.digests, str):
        folder = options.resume or options.run_dir or "runs/new"  # "new" stands for a name that is not chosen yet
        _expect_digests_file(Path(options.digests), Path(folder))
    chosen, recipe = run_settings.from_options(options), options.recipe
    if options.config:
        with user_errors():
            file = config.read(options.config)
        recipe = recipe or file.pop("recipe", None)
        chosen = run_settings.override({name: value for name, value in file.items() if name != "recipe"}, chosen)
        if options.resume and recipe:  # the recipe's settings are compared with the run's, like the file's
            with user_errors():
                settings = lookup("recipe", recipe, recipes.RECIPES)
            chosen = run_settings.override(settings, chosen)
    return chosen, recipe


def _expect_digests_file(path: Path, run: Path) -> None:
    """Raises UserError for digests that cannot be written, before the run's folder and its parents are created."""
    from gpuconv.training import RunDirectory

    expect_place("--digests", path, (run.resolve(), *run.resolve().parents))
    with user_errors():
        RunDirectory(run).expect_digests(path, "--digests")


def _load_sets(
    options: argparse.Namespace, settings: run_settings.Settings
) -> tuple[Dataset | Samples, Dataset | Samples | None, Dataset | Samples]:
    """The data sets to train on, to validate on and to test on, as the settings name them."""
    from gpuconv.data import load
    from gpuconv.training.tta import expect_views

    train, test = (
        load_data(settings, options.data, options.test) if options.resume else load(settings.data, settings.test)
    )
    expect_views(run_settings.read_tta(settings.tta), train.image_shape)
    train, validation = split_validation(settings, train)
    print_line("data", f"{train.name}: {_describe_sets(train, validation, test)}")
    return train, validation, test


def _trainer(options: argparse.Namespace, settings: run_settings.Settings, net: Sequential, ranks: Ranks) -> Trainer:
    from gpuconv.training import Trainer

    return Trainer(
        net,
        settings.optimizer,
        lr=settings.lr,
        loss=settings.loss,
        schedule=settings.schedule,
        plateau=settings.plateau,
        clip=settings.clip,
        ema=settings.ema or None,
        accumulate=settings.accumulate,
        seed=settings.seed,
        precision=settings.precision,
        graph=options.graph,
        shadow=options.shadow,
        violation=options.on_violation,
        shards=settings.shards or None,
        parallel=ranks,
        sync_batch_norm=bool(settings.sync_batch_norm),
        shard_optimizer=options.shard_optimizer,
    )


def _print_accuracy(accuracy: float, trainer: Trainer, held_out: Loader, tta: str) -> None:
    """Print the test accuracy, with test-time augmentation if the settings ask for it. accuracy: the test accuracy
    without it."""
    from gpuconv.training import evaluate

    if tta != "none":
        print_line("averaging", f"{tta}; without it the test accuracy is {100 * accuracy:.2f}%")
        with trainer.averaged():
            accuracy = evaluate(trainer.net, held_out, loss=trainer.loss, tta=tta).accuracy
    json_output.note(test_accuracy=accuracy, test_time_augmentation=tta)
    say(f"test accuracy {100 * accuracy:.2f}%", "stdout")


def _describe_sets(train: Dataset | Samples, validation: Dataset | Samples | None, test: Dataset | Samples) -> str:
    from gpuconv.data import Samples

    stream = ", read as needed (identified by names, sizes, dates and labels)" if isinstance(train, Samples) else ""
    validating = f"{len(validation):,} to validate on, " if validation else ""
    counts = f"{len(train):,} images to train on, {validating}{len(test):,} to test on"
    return f"{counts}, {size_text(train.image_shape)}, {len(train.classes)} classes{stream}"


def _print_files(
    directory: str | os.PathLike[str],
    net: Sequential,
    test: Any,  # noqa: ANN401 - labeled data
    normalization: Normalization,
    settings: run_settings.Settings,
) -> None:
    """Draw the pictures of the trained net, and print where the files are and what to try next."""
    from gpuconv import plots
    from gpuconv.cli import nets, pictures
    from gpuconv.training import RunDirectory

    run = RunDirectory(directory)
    title = f"{nets.stem(settings.model)} looks at a test image of {test.name}"
    drawings = {
        run.filters: lambda: pictures.draw_filters(run.filters, net),
        run.activations: lambda: pictures.draw_activations(
            run.activations, net, test.first(1)[0], normalization, test.classes, truth=int(test.labels[0]), title=title
        ),
    }
    for path, draw in drawings.items():
        try:
            draw()
        except plots.NoMatplotlibError:
            break  # already reported for the curves
        except plots.PlotError as error:
            say(f"no {path.name}: {error}")
    files = [path.name for path in (run.curves, run.activations, run.filters, run.shadow) if path.exists()]
    if not is_quiet():
        say("", "stdout")
    print_line("checkpoint", run.last)
    print_line("metrics", f"{run.metrics_jsonl}, {run.metrics_csv.name}")
    if files:
        print_line("pictures", f"{run.path}/: {', '.join(files)}")
    print_line("try next", command("gpuconv", "evaluate", run.path))
    print_line("", command("gpuconv", "predict", "IMAGE", "--run-dir", run.path) + "\n")
