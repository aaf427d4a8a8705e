"""Find a learning rate: train a net for some steps at a rising rate, and see where the loss falls fastest.

This is Smith's range test. It prints a table and a suggestion, and writes files only with --out. Settings that are not
given have the defaults of `gpuconv train`."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import json_output, option_types, run_settings, shared_options
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.initial_net import initial_net
from gpuconv.cli.output_lines import print_line
from gpuconv.dtypes import as_precision
from gpuconv.system import files
from gpuconv.system.console import is_quiet, say
from gpuconv.system.shell import command

if TYPE_CHECKING:
    from gpuconv.training import RangeTest

EXAMPLES = [
    "gpuconv lr-find",
    "gpuconv lr-find --data cifar10:data --model tiny-vgg --optimizer adam --out rates",
    "gpuconv lr-find --from 1e-5 --to 1 --steps 200",
]

SETTINGS = [
    "data",
    "model",
    "weights",
    "seed",
    "batch_size",
    "optimizer",
    "clip",
    "augment",
    "loss",
    "whiten",
    "precision",
]


def configure(parser: argparse.ArgumentParser) -> None:
    shared_options.add_options(parser, only=SETTINGS)
    add_device(parser)
    rate = option_types.positive
    parser.add_argument(
        "--from", dest="start", type=rate, default=1e-6, metavar="X", help="the first rate (default: 1e-6)"
    )
    parser.add_argument("--to", dest="end", type=rate, default=10.0, metavar="X", help="the last rate (default: 10)")
    parser.add_argument(
        "--steps", type=option_types.count(2), default=100, metavar="N", help="how many steps to train (default: 100)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a folder for the picture, lr-find.png, and the losses, lr-find.csv"
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv.data import Augmentation, load
    from gpuconv.data.stream_loader import make_loader
    from gpuconv.training import DataError, DivergedError, lr_find

    if options.start >= options.end:
        raise UserError(f"the rate rises: --from must be below --to, received {options.start:g} and {options.end:g}")
    if options.out:
        existing = next(filter(Path.exists, [options.out, *options.out.parents]))
        if not existing.is_dir():
            raise UserError(f"--out {options.out} must be a folder, and {existing} is not one")
    chosen = run_settings.from_options(options)
    settings = run_settings.with_recipe(chosen)
    with user_errors():
        images, _ = load(settings.data)
    print_line("data", f"{images.name}: {len(images):,} images to train on")
    device = choose_device(options)
    with user_errors():
        net, normalization = initial_net(settings, images, device)
        loader = make_loader(
            images,
            settings.batch_size,
            augmentation=Augmentation.parse(settings.augment),
            seed=settings.seed,
            normalization=normalization,
            device=device,
            dtype=as_precision(precision=settings.precision)[0],
        )
    print_line("model", f"{settings.model}, {settings.optimizer}, loss {settings.loss}, {settings.precision}")
    print_line("rates", f"{options.start:g} to {options.end:g} over {options.steps} steps\n")
    try:
        with user_errors():
            found = lr_find(
                net,
                loader,
                settings.optimizer,
                start=options.start,
                end=options.end,
                steps=options.steps,
                loss=settings.loss,
                seed=settings.seed,
                precision=settings.precision,
                clip=settings.clip,
            )
    except (DataError, DivergedError) as error:
        raise UserError(str(error)) from error
    json_output.note(records=found.records(), suggestion=found.suggestion, diverged=found.diverged)
    print(found)
    if options.out:
        _write(options.out, found, settings.model)
    if found.suggestion is not None and not is_quiet():
        print()
        same = [word for name, value in chosen.items() for word in (shared_options.option(name), str(value))]
        print_line("try next", command("gpuconv", "train", *same, "--lr", f"{found.suggestion:.2g}"))
    return 0


def _write(folder: Path, found: RangeTest, model: str) -> None:
    """Write the picture and the records."""
    from gpuconv import plots
    from gpuconv.cli import nets

    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder / "lr-find.csv", folder / "lr-find.png"
    text = io.StringIO()
    rows = found.records()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(table, text.getvalue().encode())
    if not is_quiet():
        print()
    print_line("losses", table)
    title = f"{nets.stem(model)}: loss by learning rate"
    try:
        plots.draw(
            picture, lambda: plots.rates(found.rates, found.losses, found.smoothed, found.suggestion, title=title)
        )
        print_line("picture", picture)
    except plots.PlotError as error:
        say(f"no {picture.name}: {error}")
