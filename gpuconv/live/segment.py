"""A segment of a run: the steps with constant settings. A change of settings starts the next segment.

A segment is made from a recipe, which has the form of a run's stored settings (`training.run_schemas`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpuconv.data import Augmentation, Dataset, Loader, Normalization, Samples
from gpuconv.data.stream_loader import make_loader
from gpuconv.layers import Layer
from gpuconv.layers.saving import NOTES
from gpuconv.layers.sequential import Sequential
from gpuconv.training import Trainer, data_checks
from gpuconv.training.fit_loaders import Loaders
from gpuconv.training.from_settings import trainer_arguments
from gpuconv.training.protocols import CallbackLike
from gpuconv.types import Record

METRICS_EVERY = 10  # steps, unless the recipe says otherwise
BATCH = 256  # by default, the batch size for images that are only evaluated


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """The images of a run.

    Args:
        train: Images to train on.
        validation: Images on which each epoch is evaluated, or None.
        test: Images to test on.

    Raises TypeError for anything but a Dataset or Samples.
    """

    train: Dataset | Samples
    validation: Dataset | Samples | None
    test: Dataset | Samples

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            data = getattr(self, part)
            if not isinstance(data, (Dataset, Samples)) and not (part == "validation" and data is None):
                raise TypeError(f"{part} must be a gpuconv.data.Dataset or Samples, received {type(data).__name__}")

    @property
    def classes(self) -> list[str]:
        """The names of the training set's classes."""
        return [str(name) for name in self.train.classes]


Sets = DataSplits  # the former name


@dataclasses.dataclass
class Segment:
    """A trainer, and the arguments of its `fit`."""

    recipe: Record
    trainer: Trainer
    loaders: Loaders

    @property
    def net(self) -> Any:  # noqa: ANN401 - a built Sequential
        return self.trainer.net

    def fit(self, run_dir: str | Path | None, resume: bool, callbacks: Sequence[CallbackLike]) -> None:
        options = self.recipe.get("options", {})
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
            settings={name: value for name, value in options.items() if name not in NOTES},
            progress=False,
        )


def make(
    recipe: Record, sets: DataSplits, device: str, *, prepare: Callable[[Sequential], None] | None = None
) -> Segment:
    """The segment of a recipe. Its net gets initial weights, drawn by the seed in `recipe["net"]`. prepare: called on
    the new net, which has its normalization already.

    Raises ValueError, TypeError or DataError if the recipe and the data do not fit. Nothing has changed then."""
    net = Layer.from_config(recipe["net"], device=device, precision=recipe["precision"])
    options = recipe.get("options", {})
    stored = Normalization(options["mean"], options["std"]) if "mean" in options else None
    normalization = stored or Normalization.from_dataset(sets.train)
    net.classes, net.normalization = sets.classes, normalization
    if prepare:
        prepare(net)
    trainer = Trainer(net, **trainer_arguments(recipe), metrics=["confusion"])
    loaders: Loaders = {}
    for part in ("train", "validation", "test"):
        data, settings = getattr(sets, part), recipe.get(part) or {}
        loaders[part] = None if data is None else _loader(data, settings, part, net, normalization, recipe["seed"])
        if data is not None:
            data_checks.expect(part, loaders[part], net, trainer.loss)
    # `fit` sets these too, but the page shows the learning rate, which depends on them, before `fit` begins.
    trainer.epochs, trainer.batches = recipe["epochs"], math.ceil(len(loaders["train"]) / trainer.accumulate)
    return Segment(recipe, trainer, loaders)


def _loader(
    data: Dataset | Samples,
    settings: Record,
    part: str,
    net: Sequential,
    normalization: Normalization | None,
    seed: int,
) -> Loader:
    size = settings.get("batch_size", BATCH)
    made = make_loader(
        data,
        min(size, len(data)) if part == "train" else size,
        normalization=normalization,
        seed=settings.get("seed", seed if part == "train" else 0),
        augmentation=Augmentation.parse(settings.get("augmentation", "none")),
        shuffle=settings.get("shuffle", part == "train"),
        drop_last=settings.get("drop_last", False),
        device=net.device,
        dtype=net.dtype,
    )
    made.part = settings.get("part")
    return made
