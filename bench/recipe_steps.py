"""Our side of a whole recipe: all of its steps, as in `gpuconv train --recipe`, on synthetic images.

Batches are loaded, shuffled and augmented on the device, rates follow their schedules, and every group of parameters
has its own optimizer. Evaluation and whitening are not included.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.entry_calls import Compared
from bench.sides import OURS, Prepared, Side
from bench.suite import RECIPE_STEPS, Entry
from gpuconv import backends, losses, models
from gpuconv.cli import run_settings
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, synthetic
from gpuconv.training import Trainer
from gpuconv.training.optimizers import Optimizer
from gpuconv.verify.compare import Expected

CHECKED_STEPS, CHECKED_IMAGES = 3, 64


@dataclass(frozen=True)
class Recipe:
    """The recipe airbench94 with an entry's net and batch size. A run has the recipe's epochs, with `steps` steps in
    total."""

    entry: Entry
    steps: int = RECIPE_STEPS

    @functools.cached_property
    def settings(self) -> run_settings.Settings:
        name, size = self.entry.workload
        return run_settings.with_recipe({"data": "synthetic", "model": name, "batch_size": size}, "airbench94")

    @functools.cached_property
    def loss(self):
        return losses.get(self.settings.loss)

    @functools.cached_property
    def augmentation(self) -> Augmentation:
        return Augmentation.parse(self.settings.augment)

    @functools.cached_property
    def data(self) -> Dataset:
        """As many images as give `steps` steps in the recipe's epochs."""
        images = self.steps // self.settings.epochs * self.settings.batch_size
        return synthetic.load(images, size=models.build(self.settings.model, initialize=False).input_shape)[0]

    @functools.cached_property
    def normalization(self) -> Normalization:
        return Normalization.from_dataset(self.data)

    @functools.cached_property
    def checked_data(self) -> Dataset:
        """A few images for the correctness check of each side before it is timed."""
        return self.data.subset(slice(CHECKED_IMAGES))

    def net(self, dtype: str = "float32"):
        net = models.build(self.settings.model, seed=1, dtype=dtype)
        models.whiten(net, self.normalization(self.data.images[: self.settings.whiten], dtype))
        return net

    def trainer(self, device: str, dtype: str) -> Trainer:
        """The recipe's trainer on a device. A 16-bit net starts from float32 weights, which it keeps as masters."""
        net, chosen = self.net("float64" if dtype == "float64" else "float32").to(device), self.settings
        return Trainer(net, chosen.optimizer, lr=chosen.lr, loss=self.loss, schedule=chosen.schedule, precision=dtype)

    def loader(self, trainer: Trainer, data: Dataset, batch_size: int, **options) -> Loader:
        where = dict(device=trainer.net.device, dtype=trainer.net.dtype)
        return Loader(data, batch_size, normalization=self.normalization, **where, **options)

    def losses(self, device: str, dtype: str) -> np.ndarray:
        """The losses of the first steps, each on all images of `checked_data`, with the recipe's
        optimizer, loss and schedule, but without augmentation and shuffling."""
        trainer = self.trainer(device, dtype)
        loader = self.loader(trainer, self.checked_data, len(self.checked_data), shuffle=False)
        trainer.fit(loader, epochs=CHECKED_STEPS, progress=False)
        return np.array([record["train_loss"] for record in trainer.history])

    def rates(self, net, steps: int, steps_per_epoch: int) -> tuple[Optimizer, Iterator[list[float]]]:
        """For a peer: the parameter groups of a net, and the learning rates of each step, one per group."""
        trainer = Trainer(net, self.settings.optimizer, lr=self.settings.lr, schedule=self.settings.schedule)
        groups, schedule = trainer.optimizer, trainer.schedule
        groups.begin(steps, steps_per_epoch)
        factors = (groups.lr * schedule(step, steps, steps_per_epoch) for step in range(steps))
        return groups, (groups.rates(factor, step) for step, factor in enumerate(factors))

    @functools.cached_property
    def _expected_losses(self) -> np.ndarray:
        with backends.oracle():
            return self.losses("numpy", "float64")

    def compare(self, results: list[np.ndarray]) -> Compared:
        """For `sides.check`: the losses of the first steps. Only the relative error is checked, so the bounds of 0 are
        not used."""
        yield Expected("losses", self._expected_losses, np.zeros(CHECKED_STEPS)), np.asarray(results[0], np.float64)


def sides(recipe: Recipe, device: str) -> list[Side]:
    """gpuconv's side: a run of `Trainer.fit`. On a GPU each run captures its graphs anew, and that time counts."""

    def prepare() -> Prepared:
        losses = recipe.losses(device, recipe.entry.dtype)
        trainer = recipe.trainer(device, recipe.entry.dtype)
        loader = recipe.loader(trainer, recipe.data, recipe.settings.batch_size, augmentation=recipe.augmentation)

        def call(_: int) -> None:
            trainer.fit(loader, epochs=trainer.epoch + recipe.settings.epochs, progress=False)

        return Prepared(call, lambda: [losses])

    return [Side(OURS, "gpuconv", prepare)]
