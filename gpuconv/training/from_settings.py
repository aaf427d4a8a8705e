"""A trainer's arguments from the settings of a run, as run.json and the recipes of the live page hold them."""

from __future__ import annotations

from gpuconv import losses
from gpuconv.training import optimizers, schedules
from gpuconv.training.loss_scale import LossScale
from gpuconv.types import Options, Record


def trainer_arguments(settings: Record) -> Options:
    """The arguments of `Trainer` that determine a run's results, apart from the net and its precision.

    Raises ValueError or TypeError for an optimizer, loss or schedule that the run's own program defined.
    """
    arguments = {
        "optimizer": optimizers.get(**settings["optimizer"]),
        "loss": losses.read(settings["loss"]),
        "schedule": schedules.get(settings["schedule"]),
        "seed": settings["seed"],
        "loss_scale": LossScale(**settings["loss_scale"]) if settings.get("loss_scale") else None,
    }
    return (
        arguments
        | {name: settings.get(name) for name in ("shards", "plateau", "clip", "ema")}
        | {"accumulate": settings.get("accumulate", 1), "sync_batch_norm": settings.get("sync_batch_norm", False)}
    )
