"""Options that several commands take: a run's settings, --precision, and those of a training step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from gpuconv.cli.device_option import add_device
from gpuconv.cli.option_types import count, fraction, positive, switch
from gpuconv.dtypes import PRECISIONS
from gpuconv.types import Options

# The settings of a run: the type, the placeholder and the help text of each.
OPTIONS: dict[str, tuple[Callable[[str], int | float | str], str, str]] = {
    "data": (str, "SPEC", "digits, cifar10:DIR, folder:DIR[,size=32x32] or synthetic[:n=1024,size=32x32x3]"),
    "test": (
        str,
        "SPEC",
        "a separate test set, such as folder:DIR; then all images of a --data folder are for training",
    ),
    "validation": (
        fraction,
        "PART",
        "the fraction of each class of the training images, such as 0.1, to split off for validation; then "
        "the test images are used only once, at the end (default: 0, none)",
    ),
    "model": (
        str,
        "NAME",
        "a net by name, such as digits-net or tiny-vgg (`gpuconv summary` lists them), or "
        "FILE.py:FUNCTION, called with the input shape and the number of classes",
    ),
    "weights": (
        str,
        "FILE_OR_RUN",
        "initial weights from a run, a checkpoint or a saved net whose layers have the same names and shapes",
    ),
    "seed": (count(0), "N", "seeds everything random: weights, order, augmentation (default: 0)"),
    "epochs": (count(1), "N", "passes over the training images"),
    "batch_size": (count(1), "N", "images in a batch"),
    "lr": (
        positive,
        "X",
        "the learning rate, which the schedule scales; with optimizer groups, their own rates are multiplied by it",
    ),
    "optimizer": (
        str,
        "SPEC",
        "sgd, adagrad, rmsprop, adam, adamw, lion or muon, such as sgd:momentum=0.9,nesterov=true, "
        "or groups, such as 'filters -> muon:lr=0.02; * -> sgd:lr=0.05'",
    ),
    "schedule": (
        str,
        "SPEC",
        "constant, linear, step:30,60, exponential:0.95, polynomial:power=2, cosine or one-cycle, "
        "such as cosine,warmup:5",
    ),
    "plateau": (
        str,
        "SPEC",
        "such as 5: multiply the rate by 0.1 after more than 5 epochs in a row without a better validation loss; "
        "5,factor=0.5,watch=validation_accuracy also sets the factor and the measure (default: none)",
    ),
    "clip": (
        str,
        "SPEC",
        "the largest norm of all gradients together, such as 1.0, or the largest magnitude of each of their values, "
        "such as value:0.5 (default: none)",
    ),
    "ema": (
        fraction,
        "DECAY",
        "keep a moving average of the weights with this decay, such as 0.999; validation, the test and `gpuconv "
        "evaluate` use the average (default: 0, none)",
    ),
    "accumulate": (count(1), "K", "update once for every K batches, by the gradients of all their images (default: 1)"),
    "augment": (
        str,
        "SPEC",
        "none, or flip, alternating-flip, shift:PIXELS, reflect, cutout:PIXELS, resized-crop:AREA, "
        "brightness:STRENGTH, contrast:STRENGTH, saturation:STRENGTH, hue:STRENGTH, "
        "mixup:ALPHA, cutmix:ALPHA, such as flip,shift:4",
    ),
    "loss": (str, "SPEC", "softmax or svm, such as softmax:label_smoothing=0.1,weight=1/2/0.5"),
    "whiten": (
        count(0),
        "IMAGES",
        "initialize the first convolution's filters from this many training images, to whiten its input; 0: no",
    ),
    "early_stopping": (
        count(0),
        "N",
        "stop after N epochs in a row without a better validation accuracy; if there is no validation, the training "
        "loss counts (default: 0, never)",
    ),
    "tta": (str, "MODE", "test-time averaging over views: none, mirror, shift or mirror+shift"),
    "shards": (
        count(0),
        "S",
        "cut each batch into S parts, which go forward and backward one by one; S is a power of two (default: 0, one "
        "part for each process)",
    ),
    "sync_batch_norm": (
        switch,
        "1|0",
        "batch norm takes its statistics over all ranks, not over each rank alone (default: 0; the option without a "
        "value means 1)",
    ),
    "precision": (
        str,
        "NAME",
        f"precision of the net: {', '.join(PRECISIONS)}; 16-bit nets have float32 master weights",
    ),
}


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, only: Iterable[str] = OPTIONS) -> None:
    """Add the settings as options; those that are not given are None."""
    group = parser.add_argument_group("settings", "defaults come from the net's recipe")
    for name in only:
        read, metavar, text = OPTIONS[name]
        value: Options = {"nargs": "?", "const": 1} if read is switch else {}
        group.add_argument(option(name), type=read, metavar=metavar, help=text, **value)


def add_precision(parser: argparse.ArgumentParser, default: str | None = "float32") -> None:
    text = f"precision of the net: {', '.join(PRECISIONS)} (default: float32)"
    parser.add_argument("--precision", metavar="NAME", default=default, help=text)


def add_step_options(parser: argparse.ArgumentParser, net: str) -> None:
    """Add the options of commands that analyze a training step. net: what --model names, for its help text."""
    text = f"{net}, by name, or FILE.py:FUNCTION (default: tiny-vgg)"
    parser.add_argument("--model", metavar="NAME", default="tiny-vgg", help=text)
    parser.add_argument("--batch-size", metavar="N", type=count(1), default=128, help="images per step (default: 128)")
    add_precision(parser)
    add_device(parser)
