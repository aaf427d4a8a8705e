"""Changes of a run's settings during training.

A change starts the next segment of the run from the same state. It is recorded among the run's records at its step, in
the same file as the state from which the run continues. So a killed run resumes either with the whole change or without
it, and `changes_of` lists the changes for a repetition of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpuconv.arguments import integer
from gpuconv.checkpoint import Checkpoint
from gpuconv.live.segment import Segment
from gpuconv.names import canonical
from gpuconv.training import optimizers
from gpuconv.types import Record

CHANGE = "change"  # the `event` entry of a change's record
SETTINGS = ("optimizer", "lr", "momentum", "weight_decay", "batch_size", "epochs")  # those that may change


def settings_of(recipe: Record) -> Record:
    """The current values of the settings that may change."""
    optimizer = recipe["optimizer"]
    found = {"optimizer": optimizer["optimizer"]}
    found |= {name: optimizer[name] for name in ("lr", "momentum", "weight_decay") if name in optimizer}
    return found | {"batch_size": recipe["train"]["batch_size"], "epochs": recipe["epochs"]}


def change_recipe(recipe: Record, changes: Record, *, images: int, epoch: int = 0) -> Record:
    """The recipe with changed settings. images: the size of the training set. epoch: the epochs done.

    Raises ValueError or TypeError for a setting that is unknown or that the optimizer does not have, and for a value
    that is not accepted.
    """
    if not isinstance(changes, dict):
        raise TypeError(f"settings are an object of names and values, received {changes!r}")
    names = [canonical("setting", name, SETTINGS) for name in changes]
    if twice := [name for name in SETTINGS if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    changes = dict(zip(names, changes.values()))
    found = recipe | {"train": dict(recipe["train"]), "optimizer": dict(recipe["optimizer"])}
    current = found["optimizer"]["optimizer"]
    name = changes.pop("optimizer", current)
    if name != current and (name := canonical("optimizer", name, optimizers.OPTIMIZERS)) != current:
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


def carry_state(before: Checkpoint, segment: Segment, changes: Record) -> Checkpoint:
    """Converts the state before a change to the state from which `segment`, made with the change, continues.

    The weights, their masters and the step number are kept. The optimizer's state is kept too, unless the change names
    another optimizer, whose state starts with zeros. An epoch in progress continues at a multiple of the new batch
    size.
    """
    state = dict(before.state)
    recipe, old_settings = segment.recipe, state["settings"]
    same_optimizer = recipe["optimizer"]["optimizer"] == old_settings["optimizer"]["optimizer"]
    old_tensors = before.part("optimizer")
    optimizer = {}
    for name, value in segment.trainer.optimizer.state_dict().items():
        old = old_tensors.get(name)
        kept = same_optimizer or name.startswith("master.") or name == "steps"
        optimizer[name] = old if kept and old is not None and old.shape == value.shape else value
    accumulate = recipe.get("accumulate", 1)
    images_seen = state["batch"] * old_settings["train"]["batch_size"] * accumulate
    size = recipe["train"]["batch_size"]
    batches = math.ceil(len(segment.loaders["train"]) / accumulate)
    state["batch"] = min(images_seen // (size * accumulate), batches - 1)
    own = {name: recipe[name] for name in ("optimizer", "epochs")}
    state["settings"] = old_settings | own | {"train": old_settings["train"] | {"batch_size": size}}
    done = int(optimizer["steps"])
    note = {"event": CHANGE, "step": done, "epoch": state["epoch"] + 1, "settings": changes}
    state["records"] = [*state["records"], note]
    tensors = {name: array for name, array in before.tensors.items() if not name.startswith("optimizer.")}
    return Checkpoint(tensors | {f"optimizer.{name}": array for name, array in optimizer.items()}, state)


def changes_of(records: Sequence[Record]) -> list[tuple[int, Record]]:
    """The steps after which a run's settings changed, and the changes."""
    return [(record["step"], record["settings"]) for record in records if record["event"] == CHANGE]
