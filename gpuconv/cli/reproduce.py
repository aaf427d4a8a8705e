"""Reproduce the accuracy table of docs/recipes.md on the digits that come with gpuconv, and show differences.

The net and recipe are those of `gpuconv train`, with fewer epochs. On NumPy the order of sums depends on the BLAS and
its number of threads, so on another machine a few more or fewer images may be right. On "emulated" that order is
fixed."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpuconv.cli import json_output, run_settings
from gpuconv.cli.errors import user_errors
from gpuconv.devices import Device
from gpuconv.dtypes import PRECISIONS
from gpuconv.system.console import say
from gpuconv.types import Options

EXAMPLES = ["gpuconv reproduce --quick", "gpuconv reproduce --device numpy", "gpuconv reproduce"]

SEEDS = 5
IMAGES = 360  # images in the test set
REFERENCE: dict[tuple[str, str], tuple[int, ...]] = {  # the number of images classified correctly, for seeds 0, 1, ...
    ("numpy", "float32"): (353, 353, 351, 350, 353),
    ("numpy", "tf32"): (352, 351, 350, 352, 353),
    ("numpy", "float16"): (354, 354, 351, 352, 352),
    ("numpy", "bfloat16"): (353, 354, 349, 353, 353),
    ("numpy", "float64"): (353, 351, 353, 353, 350),
    ("emulated", "float32"): (251, 259, 292, 257, 251),
    ("emulated", "tf32"): (246, 223, 285, 277, 270),
    ("emulated", "float16"): (222, 250, 292, 284, 256),
    ("emulated", "bfloat16"): (258, 252, 294, 297, 278),
    ("emulated", "float64"): (251, 259, 291, 257, 251),
}


class Row(NamedTuple):
    """The results of a device and precision: how many test images were classified correctly, for seeds 0, 1, ..."""

    device: str
    precision: str
    right: tuple[int, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="numpy, emulated or a GPU (default: numpy and emulated)")
    parser.add_argument(
        "--quick", action="store_true", help="only one run: float32, seed 0, on numpy or the given device"
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv import backends

    with user_errors():
        devices = [backends.resolve(options.device)] if options.device else ["numpy", "emulated"]
    if options.quick:
        work, seeds = [(devices[0], "float32")], 1
    else:
        work, seeds = [(device, precision) for device in devices for precision in PRECISIONS], SEEDS
    rows = []
    for device, precision in work:
        rows.append(Row(device, precision, tuple(count_correct(device, precision, seed) for seed in range(seeds))))
        say(f"{device}, {precision}: {percent(rows[-1].right)} %")
        json_output.add(
            "rows", rows[-1]._asdict() | {"epochs": epochs(device), "differences": [*differences(rows[-1])]}
        )
    print(*table(rows), sep="\n")
    found = [line for row in rows for line in differences(row)]
    print("", *(found or ["every run is as in the table of docs/recipes.md"]), sep="\n")
    return 0


def epochs(device: str) -> int:
    return 1 if Device.named(device).emulated else 10


def count_correct(device: str, precision: str, seed: int) -> int:
    """The number of test images that a net trained with these settings classifies correctly."""
    from gpuconv import models
    from gpuconv.data import Augmentation, Loader, Normalization, digits
    from gpuconv.training import Trainer, evaluate

    settings = run_settings.with_recipe(
        {"model": "digits-net", "seed": seed, "precision": precision, "epochs": epochs(device)}
    )
    train, test = digits.load()
    net = models.build(settings.model, input_shape=train.image_shape, classes=len(train.classes), seed=seed).to(device)
    trainer = Trainer(
        net,
        settings.optimizer,
        lr=settings.lr,
        loss=settings.loss,
        schedule=settings.schedule,
        seed=seed,
        precision=settings.precision,
    )
    common: Options = {"normalization": Normalization.from_dataset(train), "device": device, "dtype": net.dtype}
    augmentation = Augmentation.parse(settings.augment)
    loader = Loader(train, settings.batch_size, augmentation=augmentation, seed=seed, **common)
    trainer.fit(loader, epochs=settings.epochs, progress=False)
    if trainer.interrupted_by:
        signal.raise_signal(trainer.interrupted_by)
    found = evaluate(net, Loader(test, settings.batch_size, shuffle=False, **common), loss=trainer.loss)
    return round(found.accuracy * found.samples)


def table(rows: Sequence[Row]) -> list[str]:
    """The table of docs/recipes.md: accuracy on the test images in percent."""
    seeds = max(len(row.right) for row in rows)
    head = ["device", "precision", "epochs", *(f"seed {seed}" for seed in range(seeds)), "mean"]
    body = [
        [row.device, row.precision, str(epochs(row.device)), *(percent([one]) for one in row.right), percent(row.right)]
        for row in rows
    ]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def percent(right: Sequence[int]) -> str:
    return f"{100 * sum(right) / len(right) / IMAGES:.2f}"


def differences(row: Row) -> Iterator[str]:
    """The differences between a row and the table, in words."""
    reference = REFERENCE.get((row.device, row.precision))
    if reference is None:
        yield f"{row.device}, {row.precision}: the table has no such row"
        return
    for seed, (known, here) in enumerate(zip(reference, row.right)):
        if known != here:
            yield (
                f"{row.device}, {row.precision}, seed {seed}: {percent([here])} %, in the table {percent([known])} % "
                f"({abs(here - known)} {'more' if here > known else 'fewer'} of {IMAGES} images right)"
            )
