"""The settings of a run: the command line's, completed by the net's recipe, and stored with the run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuconv import numerals
from gpuconv.cli import document
from gpuconv.cli.errors import user_errors
from gpuconv.console import say
from gpuconv.dtypes import PRECISIONS, as_precision
from gpuconv.names import canonical
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.losses import Loss
    from gpuconv.training.plateau import Plateau
    from gpuconv.training.shadow import Shadow


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, JSON-serializable. The device is not among them, so a run can continue on another one."""

    data: str
    model: str
    seed: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    schedule: str
    augment: str
    loss: str
    whiten: int = 0
    tta: str = "none"
    precision: str = "float32"
    test: str = ""
    validation: float = 0.0
    early_stopping: int = 0
    weights: str = ""
    shards: int = 0
    plateau: str = "none"
    clip: str = "none"
    ema: float = 0.0
    accumulate: int = 1
    sync_batch_norm: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.epochs} epochs",
            f"batches of {self.batch_size}",
            f"{self.optimizer} lr {self.lr:g}",
            self.schedule,
            f"augment {self.augment}",
            f"loss {self.loss}",
            self.precision,
            f"seed {self.seed}",
        ]
        parts += [f"first filters whiten {self.whiten:,} images"] if self.whiten else []
        parts += [f"tta {self.tta}"] if self.tta != "none" else []
        parts += [f"validation {self.validation:g}"] if self.validation else []
        parts += [f"early stopping {self.early_stopping}"] if self.early_stopping else []
        parts += [f"weights of {self.weights}"] if self.weights else []
        parts += [f"{self.shards} shards"] if self.shards else []
        parts += ["batch norm over all ranks"] if self.sync_batch_norm else []
        parts += [f"plateau {self.plateau}"] if self.plateau != "none" else []
        parts += [f"clip {self.clip}"] if self.clip != "none" else []
        parts += [f"{self.accumulate} batches an update"] if self.accumulate > 1 else []
        parts += [f"ema {self.ema:g}"] if self.ema else []
        return ", ".join(parts)


def switch(text: str) -> int:
    """An argparse type: 1 or 0."""
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 1 or 0, received {text!r}")
    return int(text)


def count(least: int) -> Callable[[str], int]:
    """An argparse type: an integer >= `least`."""

    def read(text: str) -> int:
        try:
            number = numerals.integer(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
        if number >= 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number below 2^63, received {text!r}")
        return number

    return read


def shard_count(text: str) -> int:
    """An argparse type: a power of two, or 0."""
    number = count(0)(text)
    if number & (number - 1):
        raise argparse.ArgumentTypeError(f"expected a power of two, such as 2, 4 or 8, or 0, received {text!r}")
    return number


def positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        number = numerals.real(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return number


def part(text: str) -> float:
    """An argparse type: a number from 0 up to, but not including, 1."""
    try:
        number = numerals.real(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a fraction from 0 to below 1, received {text!r}")
    return number


def share(text: str) -> float:
    """An argparse type: a share above 0 and at most 1, such as 0.02 or 2%."""
    try:
        number = numerals.real(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(
            f"expected a share above 0 and at most 1, such as 2% or 0.02, received {text!r}"
        )
    return number


def add_shadow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow",
        type=share,
        metavar="SHARE",
        help="check calls of ops against the oracle during training, in that share of the time, such as 2%%",
    )
    parser.add_argument(
        "--on-violation",
        choices=["stop", "warn"],
        default="stop",
        help="what --shadow does about an error beyond its bound (default: stop)",
    )


def print_shadow(shadow: Shadow | None, path: Path) -> None:
    """Print what the shadow oracle found, if there was one, and draw it. path: the picture's."""
    from gpuconv import plots

    if shadow is None:
        return
    document.note(shadow={"seconds": shadow.spent, "elapsed": shadow.elapsed, "rows": shadow.report()})
    say(str(shadow), "stdout")
    if any(row.checked for row in shadow.report()):
        try:
            plots.draw(path, shadow.picture)
        except plots.PlotError as error:
            say(f"no {path.name}: {error}")


OPTIONS: dict[str, tuple[Any, str, str]] = {
    "data": (str, "SPEC", "digits, cifar10:DIR, folder:DIR[,size=32x32] or synthetic[:n=1024,size=32x32x3]"),
    "test": (str, "SPEC", "a separate test set, as folder:DIR; then all images of a --data folder are for training"),
    "validation": (
        part,
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
    "weights": (str, "FILE_OR_RUN", "initial weights from a run, a checkpoint or a saved net with the same shapes"),
    "seed": (count(0), "N", "seeds everything random: weights, order, augmentation (default: 0)"),
    "epochs": (count(1), "N", "passes over the training images"),
    "batch_size": (count(1), "N", "images a step"),
    "lr": (positive, "X", "learning rate, before the schedule's factor; with groups, a factor on their rates"),
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
        "multiply the rate by 0.1 after more than this many epochs in a row without a better validation loss, such as "
        "5 or 5,factor=0.5,watch=validation_accuracy (default: none)",
    ),
    "clip": (
        str,
        "SPEC",
        "the largest norm of all gradients together, such as 1.0, or of each number, such as value:0.5 (default: none)",
    ),
    "ema": (
        part,
        "DECAY",
        "keep a moving average of the weights, such as 0.999, which validation, the test and `gpuconv evaluate` use "
        "(default: 0, none)",
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
    "whiten": (count(0), "IMAGES", "initialize the first convolution to whiten, with this many training images; 0: no"),
    "early_stopping": (
        count(0),
        "N",
        "stop after N epochs in a row without a better validation accuracy or, without validation, training loss "
        "(default: 0, never)",
    ),
    "tta": (str, "MODE", "test-time averaging over views: none, mirror, shift or mirror+shift"),
    "shards": (
        shard_count,
        "S",
        "cut each batch into S parts, a power of two, which go forward and backward one by one (default: 0, uncut)",
    ),
    "sync_batch_norm": (
        switch,
        "1|0",
        "batch norm takes the statistics of all ranks, not those of each (default: 0; 1 without a value)",
    ),
    "precision": (str, "NAME", f"precision of the net: {', '.join(PRECISIONS)}; masters are float32"),
}


LATER = (
    "validation",
    "early_stopping",
    "weights",
    "shards",
    "plateau",
    "clip",
    "ema",
    "accumulate",
    "sync_batch_norm",
)  # settings that version 0.1.0 did not have


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, only: Iterable[str] = OPTIONS) -> None:
    """Add the settings as options; those that are not given are None."""
    group = parser.add_argument_group("settings", "defaults come from the net's recipe")
    for name in only:
        read, metavar, text = OPTIONS[name]
        value: dict[str, Any] = {"nargs": "?", "const": 1} if read is switch else {}
        group.add_argument(option(name), type=read, metavar=metavar, help=text, **value)


def add_device(parser: argparse.ArgumentParser) -> None:
    names = "numpy (or cpu), cuda, cuda:1, emulated or auto (default: auto)"
    parser.add_argument("--device", metavar="NAME", default="auto", help=names)


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


def given(options: argparse.Namespace) -> Record:
    """The settings given on the command line, with full names of the net and the data.

    Raises UserError for unknown names.
    """
    with user_errors():
        return with_full_names({name: v for name, v in vars(options).items() if name in OPTIONS and v is not None})


def with_full_names(settings: Record) -> Record:
    """The same settings, with full names of the net and the data."""
    from gpuconv.cli import nets
    from gpuconv.data import named

    found = dict(settings)
    if "model" in found:
        found["model"] = nets.with_full_name(found["model"])
    if found.get("weights"):
        found["weights"] = os.path.abspath(os.path.expanduser(found["weights"]))
    for name in ("data", "test"):
        if found.get(name):
            found[name] = named.with_full_name(found[name])
    return found


def override(config: Record, chosen: Record) -> Record:
    """The settings of a file, overridden by the given ones."""
    with user_errors():
        file = with_full_names({name: value for name, value in config.items() if name not in chosen})
        if "optimizer" in chosen and rate_in({"optimizer": chosen["optimizer"]}):
            file.pop("lr", None)  # the file's rate belongs to the file's optimizer
    return file | chosen


def complete(chosen: Record, name: str | None = None) -> Settings:
    """The chosen settings, completed by the recipe of this name, by default the net's.

    Raises UserError for invalid values.
    """
    from gpuconv.cli import recipes

    with user_errors():
        data = chosen.get("data", "digits")
        recipe = recipes.get(chosen.get("model"), data.partition(":")[0], name)
        settings = Settings(**{"data": data, "seed": 0} | recipe | rate_in(chosen) | chosen)
        check(settings)
    return settings


def from_stored(command: Record) -> Settings:
    """The settings stored with a run; settings that an older version did not store have their defaults.

    Raises ValueError or TypeError that names the missing, unknown or wrong setting.
    """
    from gpuconv.data import named

    known = {entry.name: entry.default for entry in dataclasses.fields(Settings)}
    for name, default in known.items():
        if name not in command and default is dataclasses.MISSING:
            raise ValueError(f"{name} is missing")
    for name in command:
        if name not in known:
            raise ValueError(f"this version of gpuconv knows no {name}; the version that wrote it reads it")
    settings = Settings(**command)
    check(settings)
    with_full_names(command)
    return dataclasses.replace(settings, data=named.from_run(settings.data))


def to_store(settings: Settings) -> Record:
    """The settings to store with a run: data with absolute paths, and `LATER` settings only if they are not the
    default, so that older versions of gpuconv can read them."""
    from gpuconv.data import named

    found = dataclasses.asdict(settings)
    found |= {name: named.absolute_spec(found[name]) for name in ("data", "test") if found[name]}
    defaults = {entry.name: entry.default for entry in dataclasses.fields(Settings)}
    return {name: value for name, value in found.items() if name not in LATER or value != defaults[name]}


def check(settings: Settings) -> None:
    """Raise ValueError or TypeError for an invalid setting, before anything is created."""
    from gpuconv.data import Augmentation
    from gpuconv.training import Clip, optimizers, schedules

    for name, value in dataclasses.asdict(settings).items():
        try:
            read = OPTIONS[name][0](str(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{option(name)}: {error}") from None
        if read != value:
            raise TypeError(f"{option(name)} must be {type(read).__name__}, received {value!r}")
    optimizers.get(settings.optimizer)
    schedules.get(settings.schedule)
    loss(settings.loss)
    if watched := plateau(settings.plateau):
        watched.expect_watched(settings.validation, "--validation 0.1")
    Clip.of(settings.clip)
    test_time(settings.tta)
    as_precision(precision=settings.precision)
    Augmentation.parse(settings.augment)


def rate_in(chosen: Record) -> dict[str, float]:
    """The learning rate given in the optimizer's short form; for groups, which have their own rates, a factor of 1.
    ValueError if --lr gives another one."""
    from gpuconv import spec
    from gpuconv.training import optimizers

    text = chosen.get("optimizer", "")
    if "->" in text:
        return {"lr": 1.0}
    if not text or "lr" not in spec.parse(text)[0].options:
        return {}
    stated = optimizers.get(text).lr
    if chosen.get("lr", stated) != stated:
        raise ValueError(f"--lr is {chosen['lr']:g} and --optimizer says lr={stated:g}; leave one of them out")
    return {"lr": float(stated)}


def plateau(text: str) -> Plateau | None:
    """The plateau of a short form; None for "none". ValueError for an invalid one."""
    from gpuconv.training import Plateau

    return None if text == "none" else Plateau.of(text)


def test_time(name: str) -> str:
    """A test-time augmentation by its name. ValueError for an unknown one."""
    from gpuconv.training.evaluate import TTA

    return canonical("test-time augmentation", name, TTA)


def loss(text: str) -> tuple[str, Loss]:
    """The name and the loss of a short form, such as "softmax:label_smoothing=0.1". ValueError for an invalid one."""
    from gpuconv import losses, spec

    part, *more = spec.parse(text)
    if more or part.numbers:
        raise ValueError(f"a loss is written like 'softmax:label_smoothing=0.1', received {text!r}")
    name = canonical("loss", part.name, losses.LOSSES)
    try:
        return name, losses.get(name, **part.options)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from None


def new_directory(settings: Settings) -> Path:
    """Create runs/DATA-MODEL-N with the first free N."""
    from gpuconv.cli import nets
    from gpuconv.training import RunDirectory

    return RunDirectory.claim(Path("runs"), f"{settings.data.partition(':')[0]}-{nets.stem(settings.model)}")
