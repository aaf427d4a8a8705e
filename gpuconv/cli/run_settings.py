"""The settings of a run: the command line's, completed by the net's recipe, and stored with the run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from gpuconv import spec
from gpuconv.cli import shared_options
from gpuconv.cli.errors import user_errors
from gpuconv.dtypes import as_precision
from gpuconv.names import canonical
from gpuconv.types import Record

# Settings that the release 0.1.0 did not have.
ADDED_AFTER_0_1_0 = [
    "validation",
    "early_stopping",
    "weights",
    "shards",
    "plateau",
    "clip",
    "ema",
    "accumulate",
    "sync_batch_norm",
]


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
            f"{self.epochs} epoch{'s' * (self.epochs != 1)}",
            f"batches of {self.batch_size}",
            f"{self.optimizer} lr {self.lr:g}",
            self.schedule,
            f"augment {self.augment}",
            f"loss {self.loss}",
            self.precision,
            f"seed {self.seed}",
        ]
        parts += [f"whitening filters from {self.whiten:,} images"] if self.whiten else []
        parts += [f"tta {self.tta}"] if self.tta != "none" else []
        parts += [f"validation {self.validation:g}"] if self.validation else []
        parts += [f"early stopping {self.early_stopping}"] if self.early_stopping else []
        parts += [f"weights of {self.weights}"] if self.weights else []
        parts += [f"{self.shards} shards"] if self.shards else []
        parts += ["batch norm over all ranks"] if self.sync_batch_norm else []
        parts += [f"plateau {self.plateau}"] if self.plateau != "none" else []
        parts += [f"clip {self.clip}"] if self.clip != "none" else []
        parts += [f"{self.accumulate} batches per update"] if self.accumulate > 1 else []
        parts += [f"ema {self.ema:g}"] if self.ema else []
        return ", ".join(parts)


def from_options(options: argparse.Namespace) -> Record:
    """The settings given on the command line, with full names of the net and the data.

    Raises UserError for unknown names.
    """
    with user_errors():
        known = {name: value for name, value in vars(options).items() if name in shared_options.OPTIONS}
        return with_full_names({name: value for name, value in known.items() if value is not None})


def with_full_names(settings: Record) -> Record:
    """The same settings, with full names of the net and the data, and absolute paths of the net's file and the weights.

    Raises ValueError for unknown names.
    """
    from gpuconv.cli import nets
    from gpuconv.data import from_spec

    found = dict(settings)
    if "model" in found:
        found["model"] = nets.with_full_name(found["model"])
    if found.get("weights"):
        found["weights"] = os.path.abspath(os.path.expanduser(found["weights"]))
    for name in ("data", "test"):
        if found.get(name):
            found[name] = from_spec.with_full_name(found[name])
    return found


def override(config: Record, chosen: Record) -> Record:
    """The settings of a file, overridden by the given ones. The file's learning rate belongs to the file's optimizer:
    both a chosen rate and an optimizer of another kind than the file's remove it."""
    with user_errors():
        file = with_full_names({name: value for name, value in config.items() if name not in chosen})
        if "optimizer" not in chosen:
            stated = rate_in({"optimizer": file.get("optimizer", "")})
            if "lr" in chosen and stated and stated["lr"] != chosen["lr"]:
                file["optimizer"] = _without_rate(file["optimizer"])
        elif rate_in({"optimizer": chosen["optimizer"]}) or (
            "optimizer" in config and _kind(chosen["optimizer"]) != _kind(config["optimizer"])
        ):
            file.pop("lr", None)
        elif "optimizer" in config:
            file = rate_in({"optimizer": config["optimizer"]}) | file  # also where only its short form has it
    return file | chosen


def _kind(optimizer: str) -> str:
    """The name of an optimizer, given its short form; "groups" for groups."""
    return "groups" if spec.is_groups(optimizer) else _part(optimizer).name.lower()


def _without_rate(optimizer: str) -> str:
    """The short form of an optimizer without its learning rate; groups keep theirs, for which --lr is a factor."""
    if spec.is_groups(optimizer):
        return optimizer
    name, numbers, options = _part(optimizer)
    return spec.write(name, numbers, {key: value for key, value in options.items() if key != "lr"})


def _part(optimizer: str) -> spec.Part:
    return spec.parse(optimizer, like="sgd:momentum=0.9")[0]


def with_recipe(chosen: Record, name: str | None = None) -> Settings:
    """The chosen settings, completed by the recipe of this name, by default the net's.

    Raises UserError for invalid values.
    """
    from gpuconv.cli import recipes

    with user_errors():
        data = chosen.get("data", "digits")
        recipe = recipes.get(chosen.get("model"), spec.name_and_rest(data)[0], name)
        if spec.is_groups(recipe["optimizer"]) and not spec.is_groups((recipe | chosen)["optimizer"]):
            recipe["lr"] = recipes.DEFAULT["lr"]  # the recipe's is a factor on the rates of its groups
        settings = Settings(**{"data": data, "seed": 0} | recipe | rate_in(chosen) | chosen)
        check(settings)
    return settings


def from_stored(command: Record) -> Settings:
    """The settings that a command line stored with its run. Settings that an older version lacked have their defaults.

    Raises ValueError or TypeError that names the missing, unknown or wrong setting.
    """
    from gpuconv.data import from_spec

    known = {entry.name: entry.default for entry in dataclasses.fields(Settings)}
    for name, default in known.items():
        if name not in command and default is dataclasses.MISSING:
            raise ValueError(f"{name} is missing")
    for name in command:
        if name not in known:
            raise ValueError(f"this version of gpuconv does not know {name}; use the version that wrote it")
    settings = Settings(**command)
    check(settings)
    with_full_names(command)  # raises ValueError for an unknown net or data set
    return dataclasses.replace(settings, data=from_spec.from_run(settings.data))


def from_python_run(stored: Record) -> Settings:
    """The settings of a run that `Trainer.fit` started: those that commands on a run read."""
    train = stored.get("train") or {}
    test = (stored.get("test") or {}).get("name", "")
    begin = stored.get("options", {}).get("live_command", {})  # of a run of `gpuconv live`
    return Settings(
        data=train.get("name", ""),
        test=test if test.startswith("folder:") and test != train.get("name") else "",
        model="the net",
        seed=stored["seed"],
        epochs=stored["epochs"],
        batch_size=train.get("batch_size", 0),
        optimizer=stored["optimizer"]["optimizer"],
        lr=stored["optimizer"].get("lr", 0.0),
        schedule=stored["schedule"],
        augment=train.get("augmentation", "none"),
        loss=stored["loss"],
        precision=stored.get("precision", "float32"),
        validation=(stored.get("validation") or {}).get("part", 0.0),
        weights=begin.get("weights", ""),
        whiten=begin.get("whiten", 0),
    )


def to_store(settings: Settings) -> Record:
    """The settings to store with a run: data with absolute paths, and those of `ADDED_AFTER_0_1_0` only if they are not
    the default, so that older versions of gpuconv can read them."""
    from gpuconv.data import from_spec

    found = dataclasses.asdict(settings)
    found |= {name: from_spec.absolute_spec(found[name]) for name in ("data", "test") if found[name]}
    defaults = {entry.name: entry.default for entry in dataclasses.fields(Settings)}
    return {name: value for name, value in found.items() if name not in ADDED_AFTER_0_1_0 or value != defaults[name]}


def check(settings: Settings) -> None:
    """Raise ValueError or TypeError for an invalid setting, before anything is created."""
    from gpuconv import losses
    from gpuconv.data import Augmentation
    from gpuconv.training import Clip, Plateau, optimizers, schedules
    from gpuconv.training.sharding import shard_count

    for name, value in dataclasses.asdict(settings).items():
        try:
            parse, *_ = shared_options.OPTIONS[name]
            parsed = parse(str(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{shared_options.option(name)}: {error}") from None
        if parsed != value or isinstance(value, bool):
            raise TypeError(f"{shared_options.option(name)} must be {type(parsed).__name__}, received {value!r}")
    optimizers.get(settings.optimizer)
    schedules.get(settings.schedule)
    loss = losses.get(settings.loss)
    if plateau := Plateau.of(settings.plateau):
        plateau.expect_watched(settings.validation, loss, "--validation 0.1")
    Clip.of(settings.clip)
    if settings.shards:
        shard_count(settings.shards)
    read_tta(settings.tta)
    as_precision(precision=settings.precision)
    Augmentation.parse(settings.augment)


def rate_in(chosen: Record) -> dict[str, float]:
    """The learning rate given in the optimizer's short form; for groups, which have their own rates, a factor of 1.
    ValueError if the short form states one rate and --lr another."""
    from gpuconv.training import optimizers

    text = chosen.get("optimizer", "")
    if spec.is_groups(text):
        return {"lr": 1.0}
    if not text or "lr" not in _part(text).options:
        return {}
    stated = optimizers.get(text).lr
    if chosen.get("lr", stated) != stated:
        raise ValueError(f"--lr is {chosen['lr']:g} and --optimizer says lr={stated:g}; leave one of them out")
    return {"lr": float(stated)}


def read_tta(name: str) -> str:
    """A test-time augmentation by its name. ValueError for an unknown one."""
    from gpuconv.training.tta import TTA

    return canonical("test-time augmentation", name, TTA)


def short_name(settings: Settings) -> str:
    """The names of the data and the net, such as "digits-tiny-vgg"."""
    from gpuconv.cli import nets

    return f"{spec.name_and_rest(settings.data)[0]}-{nets.stem(settings.model)}"


def new_directory(settings: Settings) -> Path:
    """Create runs/DATA-MODEL-N with the first free N."""
    from gpuconv.training import RunDirectory

    return RunDirectory.claim(Path("runs"), short_name(settings))
