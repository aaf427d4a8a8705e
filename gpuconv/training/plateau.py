"""Lowers the learning rate when a measure no longer improves, as PyTorch's ReduceLROnPlateau does.

A schedule is a function of the step; a plateau is a function of the epochs' records. Checkpoints hold these records, so
a plateau needs no state of its own, and a resumed run computes the same rate. Short forms, as in
`gpuconv train --plateau`: "5", "5,factor=0.5", "watch=validation_accuracy".
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuconv import losses, spec
from gpuconv.arguments import integer, number
from gpuconv.names import canonical, canonical_keys
from gpuconv.types import Record

MEASURES = ("validation_loss", "validation_accuracy", "train_loss", "train_accuracy")
LIKE = "5,factor=0.5"


@dataclass(frozen=True)
class Plateau:
    """Multiplies the learning rate by `factor` after more than `patience` epochs in a row without improvement.

    Args:
        patience: How many epochs in a row may pass without improvement, at least 0.
        factor: Multiplies the learning rate, in addition to the schedule; above 0 and below 1.
        threshold: In [0, 1). What counts as an improvement: a loss below (1 - threshold) * best, an accuracy above
            (1 + threshold) * best.
        watch: The measure: "validation_loss", "validation_accuracy", "train_loss" or "train_accuracy".

    Raises:
        TypeError: A setting has another type.
        ValueError: A setting is out of its range.
    """

    patience: int = 10
    factor: float = 0.1
    threshold: float = 1e-4
    watch: str = "validation_loss"

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", integer("patience", self.patience, 0))
        object.__setattr__(self, "factor", number("factor", self.factor, 0, 1, open_low=True, open_high=True))
        object.__setattr__(self, "threshold", number("threshold", self.threshold, 0, 1, open_high=True))
        object.__setattr__(self, "watch", canonical("measure", self.watch, MEASURES))

    @classmethod
    def of(cls, given: str | int | Plateau | None) -> Plateau | None:
        """A plateau from `given`: its short form, its patience, or a `Plateau`; None for None and "none". Raises
        ValueError or TypeError for anything else."""
        if given is None or isinstance(given, Plateau):
            return given
        if not isinstance(given, str):
            return cls(given)
        if given == "none":
            return None
        part, *more = spec.parse(f"plateau:{given}", like=LIKE)
        if more or len(part.numbers) > 1:
            raise ValueError(f"a plateau is written like {LIKE!r}, received {given!r}")
        numbers: list[Any] = [int(each) if each.is_integer() else each for each in part.numbers]
        options = canonical_keys("setting of a plateau", part.options, inspect.signature(cls).parameters)
        try:
            return cls(*numbers, **options)
        except TypeError as error:
            raise ValueError(f"{given!r}: {error}") from None

    def __str__(self) -> str:
        return f"patience={self.patience},factor={self.factor!r},threshold={self.threshold!r},watch={self.watch}"

    def expect_watched(self, validation: object, loss: object, how: str = "validation=0.1") -> None:
        """Raise ValueError if the watched measure would not be recorded.

        Args:
            validation: The data or True; None or False if there is none.
            loss: The loss; some do not classify, so that there is no accuracy.
            how: The argument that passes validation data.
        """
        if self.watch.endswith("accuracy") and not losses.classifies(loss):
            instead = self.watch.replace("accuracy", "loss")
            raise ValueError(
                f"the plateau watches {self.watch}, and the loss {losses.describe(loss)} does not classify; give "
                f"watch={instead}"
            )
        if self.watch.startswith("validation") and not validation:
            instead = self.watch.replace("validation", "train")
            raise ValueError(
                f"the plateau watches {self.watch}, and there is no validation data; give {how} too, or watch={instead}"
            )

    def rate(self, history: Sequence[Record]) -> float:
        """The factor on the learning rate after the epochs of `history`.

        An epoch whose accuracy is None, because no label counted, or that was not measured, is no improvement.
        """
        rate, waited = 1.0, 0
        sign = -1 if self.watch.endswith("accuracy") else 1
        best = float("inf")
        for record in history:
            value = record.get(self.watch)
            if value is not None and sign * value < best * (1 - sign * self.threshold):
                best, waited = sign * value, 0
            else:
                waited += 1
            if waited > self.patience:
                rate, waited = rate * self.factor, 0
        return rate
