"""A run as a sequence of legs: settings are constant within a leg, and a change starts the next from the same state.

A leg is made from a recipe, in the form of a run's stored settings (`training.stored`). A change is recorded among the
run's records at its step, in the same file as the state that continues from it. So a killed run resumes either with or
without the whole change, and `changes_of` lists the changes for a repetition of the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpuconv.arguments import integer
from gpuconv.checkpoint import Checkpoint
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, Samples, StreamLoader
from gpuconv.layers import Layer
from gpuconv.layers.saving import NOTES
from gpuconv.layers.sequential import Sequential
from gpuconv.names import lookup
from gpuconv.training import Trainer, optimizers, user_data
from gpuconv.training.from_settings import trainer_arguments
from gpuconv.training.protocols import CallbackLike
from gpuconv.types import Record

CHANGE = "change"  # the `event` entry of a change's record
SETTINGS = (
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "batch_size",
    "epochs",
)  # settings that may change during training
METRICS_EVERY = 10
BATCH = 256  # batch size for images that are only evaluated


@dataclasses.dataclass(frozen=True)
class Sets:
    """The images of a run.

    Args:
        train: Images to train on.
        validation: Images on which each epoch is evaluated, or None.
        test: Images to test on.
    """

    train: Dataset | Samples
    validation: Dataset | Samples | None
    test: Any

    @property
    def classes(self) -> list[str]:
        """The names of the training set's classes."""
        return [str(name) for name in self.train.classes]


@dataclasses.dataclass
class Leg:
    """A trainer, and the arguments of its `fit`."""

    recipe: Record
    trainer: Trainer
    loaders: dict[str, Any]

    @property
    def net(self) -> Any:
        return self.trainer.net

    def fit(self, run_dir: str | Path | None, resume: bool, callbacks: Sequence[CallbackLike]) -> None:
        kept = self.recipe.get("options", {})
        self.trainer.fit(
            self.loaders["train"],
            epochs=self.recipe["epochs"],
            validation=self.loaders["validation"],
            test=self.loaders["test"],
            test_at_end=bool((self.recipe.get("test") or {}).get("at_end", self.loaders["validation"] is not None)),
            callbacks=callbacks,
            run_dir=run_dir,
            resume=resume,
            metrics_every=self.recipe.get("metrics_every", METRICS_EVERY),
            settings={name: value for name, value in kept.items() if name not in NOTES},
            progress=False,
        )


def make(recipe: Record, sets: Sets, device: str, *, prepare: Callable[[Sequential], None] | None = None) -> Leg:
    """The leg of a recipe, with initial weights drawn by its seed. prepare: called on the new net.

    Raises ValueError, TypeError or DataError if something does not fit, before anything changes."""
    net = Layer.from_config(recipe["net"], device=device, precision=recipe["precision"])
    if prepare:
        prepare(net)
    trainer = Trainer(net, **trainer_arguments(recipe), metrics=["confusion"])
    noted = recipe.get("options", {})
    known = Normalization(noted["mean"], noted["std"]) if "mean" in noted else None
    normalization = known or Normalization.from_dataset(sets.train)
    net.classes, net.normalization = sets.classes, normalization
    loaders: dict[str, Any] = {}
    for part in ("train", "validation", "test"):
        data, kept = getattr(sets, part), recipe.get(part) or {}
        loaders[part] = None if data is None else _loader(data, kept, part, net, normalization, recipe["seed"])
        if data is not None:
            user_data.expect(part, loaders[part], net, trainer.loss)
    # As `fit` will set them: the learning rate, which the page shows before that, depends on them.
    trainer.epochs, trainer.batches = recipe["epochs"], math.ceil(len(loaders["train"]) / trainer.accumulate)
    return Leg(recipe, trainer, loaders)


def _loader(
    data: Any, kept: Record, part: str, net: Sequential, normalization: Normalization | None, seed: int
) -> Loader:
    kind = Loader if isinstance(data, Dataset) else StreamLoader
    size = kept.get("batch_size", BATCH)
    return kind(
        data,
        min(size, len(data)) if part == "train" else size,
        normalization=normalization,
        seed=kept.get("seed", seed if part == "train" else 0),
        augmentation=Augmentation.parse(kept.get("augmentation", "none")),
        shuffle=kept.get("shuffle", part == "train"),
        drop_last=kept.get("drop_last", False),
        device=net.device,
        dtype=net.dtype,
    )


# --- changes -----------------------------------------------------------------------------------


def settings_of(recipe: Record) -> Record:
    """The current values of the settings that may change."""
    optimizer = recipe["optimizer"]
    found = {"optimizer": optimizer["optimizer"]}
    found |= {name: optimizer[name] for name in ("lr", "momentum", "weight_decay") if name in optimizer}
    return found | {"batch_size": recipe["train"]["batch_size"], "epochs": recipe["epochs"]}


def changed(recipe: Record, changes: Record, *, images: int, epoch: int = 0) -> Record:
    """The recipe with changed settings. images: the size of the training set. epoch: the epochs done.

    Raises ValueError or TypeError for a setting that is unknown, or that the optimizer does not have.
    """
    if not isinstance(changes, dict):
        raise TypeError(f"settings are an object of names and values, received {changes!r}")
    changes = {lookup("setting", name, {each: each for each in SETTINGS}): value for name, value in changes.items()}
    found = recipe | {"train": dict(recipe["train"]), "optimizer": dict(recipe["optimizer"])}
    if (name := changes.pop("optimizer", found["optimizer"]["optimizer"])) != found["optimizer"]["optimizer"]:
        lookup("optimizer", name, optimizers.OPTIMIZERS)
        found["optimizer"] = {"optimizer": name}
        made = optimizers.get(name)  # keep the settings that the new optimizer has too
        for kept in ("lr", "weight_decay", "momentum"):
            if hasattr(made, kept) and kept in recipe["optimizer"] and kept not in changes:
                found["optimizer"][kept] = recipe["optimizer"][kept]
    if "batch_size" in changes:
        size = integer("batch_size", changes.pop("batch_size"), 1)
        if size > images:
            raise ValueError(f"batch_size is at most {images}, the number of training images, received {size}")
        found["train"]["batch_size"] = size
    if "epochs" in changes:
        found["epochs"] = integer("epochs", changes.pop("epochs"), epoch + 1)
    found["optimizer"] = optimizers.get(**(found["optimizer"] | changes)).config()
    return found


def carried(before: Checkpoint, leg: Leg, changes: Record) -> Checkpoint:
    """Converts the state before a change to the state from which `leg`, made with the change, continues.

    The weights, their masters and the step number are kept, and so is the optimizer's state if it is the same
    optimizer; another one starts with zeros. An epoch in progress continues at a multiple of the new batch size.
    """
    state = dict(before.state)
    recipe, was = leg.recipe, state["settings"]
    same = recipe["optimizer"]["optimizer"] == was["optimizer"]["optimizer"]
    there = before.part("optimizer")
    optimizer = {}
    for name, value in leg.trainer.optimizer.state_dict().items():
        old = there.get(name)
        kept = same or name.startswith("master.") or name == "steps"
        optimizer[name] = old if kept and old is not None and old.shape == value.shape else value
    together = recipe.get("accumulate", 1)
    seen = state["batch"] * was["train"]["batch_size"] * together
    size = recipe["train"]["batch_size"]
    batches = math.ceil(len(leg.loaders["train"]) / together)
    state["batch"] = min(seen // (size * together), batches - 1)
    own = {name: recipe[name] for name in ("optimizer", "epochs")}
    state["settings"] = was | own | {"train": was["train"] | {"batch_size": size}}
    done = int(optimizer["steps"])
    note = {"event": CHANGE, "step": done, "epoch": state["epoch"] + 1, "settings": changes}
    state["records"] = [*state["records"], note]
    tensors = {name: array for name, array in before.tensors.items() if not name.startswith("optimizer.")}
    return Checkpoint(tensors | {f"optimizer.{name}": array for name, array in optimizer.items()}, state)


def changes_of(records: Sequence[Record]) -> list[tuple[int, Record]]:
    """The steps after which a run's settings changed, and the changes."""
    return [(record["step"], record["settings"]) for record in records if record["event"] == CHANGE]
