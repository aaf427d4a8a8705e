"""Smith's range test: trains for some steps at a rising learning rate and finds where the loss falls fastest."""

from __future__ import annotations

import copy
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np

from gpuconv import spec
from gpuconv.arguments import integer, number
from gpuconv.data import Normalization
from gpuconv.layers import Layer
from gpuconv.layers.base import expect_built
from gpuconv.text.text_table import align_columns
from gpuconv.training.callback_base import Callback
from gpuconv.training.clip import Clip
from gpuconv.training.optimizers import Groups, adapted
from gpuconv.training.run_state import DivergedError, RunState
from gpuconv.training.trainer import Trainer
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.training.protocols import DataLike, LossLike, OptimizerLike, OptimizerSettings

WINDOW = 20  # smoothing averages each step with its neighbors, up to steps // 20 before and after it
# The smoothed loss has diverged if it is above its first value and above L + (WORSE - 1) |L|, where L is its lowest
# value so far. For an L above 0 this bound is WORSE L.
WORSE = 4.0
ROWS = 12  # rows of the printed table


@dataclass(frozen=True, eq=False)
class RangeTest:
    """The result of `lr_find`.

    Args:
        rates: The learning rate of each step.
        losses: The loss of each step's batch, before its update.
        smoothed: For each step, the mean of the losses at most steps / 20 steps away.
        diverged: Whether the test ended because the loss diverged.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    diverged: bool

    @property
    def suggestion(self) -> float | None:
        """The rate at which the loss falls fastest, or None if it does not fall.

        It is the rate at which the running minimum of the smoothed loss, as a function of log(rate), has the lowest
        slope by central differences. So a fall after a rise counts only from where the loss goes below that minimum."""
        slopes = np.gradient(np.minimum.accumulate(self.smoothed), np.log(self.rates)) if len(self.rates) > 1 else [0.0]
        best = int(np.argmin(slopes))
        return float(self.rates[best]) if slopes[best] < 0 else None

    def records(self) -> list[Record]:
        """A record for each step. JSON-serializable."""
        columns = zip(self.rates.tolist(), self.losses.tolist(), self.smoothed.tolist())
        return [
            {"step": at, "lr": lr, "loss": loss, "smoothed": mean} for at, (lr, loss, mean) in enumerate(columns, 1)
        ]

    def __str__(self) -> str:
        """A table of some steps, and the suggestion."""
        records, best = self.records(), self.suggestion
        chosen = {*np.linspace(0, len(records) - 1, min(ROWS, len(records))).round().astype(int).tolist()}
        rows = [["step", "rate", "loss", "smoothed", ""]]
        for at, record in enumerate(records):
            if at in chosen or record["lr"] == best:
                values = [f"{record['lr']:.2e}", f"{record['loss']:.4g}", f"{record['smoothed']:.4g}"]
                rows.append([str(record["step"]), *values, "falls fastest" if record["lr"] == best else ""])
        end = [f"stopped after step {len(records)}: the loss diverged"] if self.diverged else []
        if best is None:
            end.append("no suggestion: the loss does not fall at any of these rates")
        else:
            end.append(f"suggested learning rate {best:.2g}")
        return "\n".join([align_columns(rows), "", *end])


def lr_find(
    net: Layer,
    train: DataLike,
    optimizer: OptimizerLike = "sgd",
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    loss: LossLike = "softmax",
    seed: int = 0,
    precision: str | None = None,
    clip: str | float | Clip | None = None,
    batch_size: int = 64,
    normalization: Normalization | None = None,
    **optimizer_settings: Unpack[OptimizerSettings],
) -> RangeTest:
    """Train a copy of the net at a rate that rises exponentially from `start` to `end` over `steps`, and return the
    losses (Smith 2015, arXiv:1506.01186, section 3.3). The net and the optimizer are left as they are.

    It stops early if the loss is not finite, or if the smoothed loss is above its first value and above L + 3 |L|,
    where L is its lowest value so far.

    Args:
        net: Built, on the device where it is to be trained.
        train: As in `Trainer.fit`, with `batch_size` and `normalization`. An iterable of batches must have a length. If
            there are fewer batches than `steps`, they are read again from the start.
        optimizer: As in `Trainer`, but without `lr`; the `lr` of an object is not used. With groups, the rate is a
            factor on each group's own rate, and the groups' schedules are ignored.
        start, end: The first and the last rate, 0 < start < end.
        steps: At least 2.
        loss, seed, precision, clip, optimizer_settings: As in `Trainer`.

    Raises ValueError or TypeError for wrong arguments, DataError for images that do not fit, and DivergedError if the
    first loss is not finite.
    """
    expect_built(net)
    start, end = number("start", start, 0), number("end", end, 0)
    if not 0 < start < end:
        raise ValueError(f"the rate rises from `start`, above 0, to `end`, received {start:g} and {end:g}")
    steps = integer("steps", steps, 2)
    _expect_no_rate(optimizer, optimizer_settings)
    own = adapted.adapt(_own_copy(optimizer), **optimizer_settings)
    own.lr = 1.0
    for group in own.parts if isinstance(own, Groups) else ():
        group.schedule = None

    def rate(step: int) -> float:
        part = min(step, steps - 1) / (steps - 1)
        return start ** (1 - part) * end**part

    trainer = Trainer(net.twin(), own, schedule=rate, loss=loss, seed=seed, precision=precision, clip=clip)
    losses = _Losses(steps)
    try:
        trainer.fit(
            train,
            epochs=steps,  # enough: each epoch has at least one step
            callbacks=[losses],
            metrics_every=1,
            batch_size=batch_size,
            normalization=normalization,
            progress=False,
        )
    except DivergedError:
        if not losses.found:
            raise
        losses.diverged = True
    if trainer.interrupted_by:
        signal.raise_signal(trainer.interrupted_by)
        raise KeyboardInterrupt  # the caller's handler of the signal returned
    rates = np.array([rate(step) for step in range(len(losses.found))])
    return RangeTest(rates, np.array(losses.found), losses.smoothed(), losses.diverged)


class _Losses(Callback):
    """Keeps the loss of each step, and stops after `steps` or when the loss has diverged."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.found: list[float] = []
        self.diverged = False

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        assert record is not None  # metrics_every is 1
        self.found.append(record["loss"])
        smoothed = self.smoothed()
        lowest = smoothed.min()
        self.diverged = bool(smoothed[-1] > max(smoothed[0], lowest + (WORSE - 1) * abs(lowest)))
        if self.diverged or len(self.found) == self.steps:
            trainer.stop("the range test is done")

    def smoothed(self) -> np.ndarray:
        """For each step so far, the mean of the losses at most steps / 20 steps away."""
        at, reach = np.arange(len(self.found)), self.steps // WINDOW
        first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(at))
        sums = np.cumsum([0.0, *self.found])
        return (sums[last] - sums[first]) / (last - first)


def _own_copy(optimizer: OptimizerLike) -> OptimizerLike:
    """The optimizer; an object is copied, because training would change it."""
    return optimizer if isinstance(optimizer, (str, type)) else copy.deepcopy(optimizer)


def _expect_no_rate(optimizer: OptimizerLike, settings: OptimizerSettings) -> None:
    text = optimizer if isinstance(optimizer, str) and not spec.is_groups(optimizer) else ""
    if "lr" in settings or (text and "lr" in spec.parse(text, like="sgd:momentum=0.9")[0].options):
        raise ValueError("the learning rates from `start` to `end` are tried; leave lr out")
