"""The progress of a run, and its checkpoints."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
from typing import Any

import numpy as np

from gpuconv import backends, losses, profiling
from gpuconv import checkpoint as checkpoints
from gpuconv.checkpoint import Checkpoint, CheckpointError, as_json
from gpuconv.layers import Layer
from gpuconv.training import check_weights, compare_settings, rank_digests, run_schemas, schedules
from gpuconv.training.history import History
from gpuconv.training.plateau import Plateau
from gpuconv.training.rundir import RunDirectory
from gpuconv.training.running_metrics import NOTHING, Reading
from gpuconv.training.schedules import Constant, Schedule
from gpuconv.training.step import NamedRange, TrainingStep
from gpuconv.types import Array, Record

log = logging.getLogger(__name__)


class DivergedError(FloatingPointError):
    """A loss or a parameter is no longer finite; the message names the step."""


class SettingsError(ValueError):
    """A run cannot be continued with other settings; the message names them."""


class RunState(TrainingStep):
    """A training step with its progress and metrics, which checkpoints save and restore."""

    def __init__(
        self, *args: Any, schedule: Schedule, plateau: Plateau | None = None, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = schedule
        self.plateau = plateau
        self.plateau_rate = 1.0  # the plateau's factor on the learning rate
        self.seed = seed
        self.epoch = self.batch = 0  # epochs done, and steps done in the current one
        self.epochs = self.batches = 0  # epochs in total, and steps in each
        self.records: list[Record] = []
        self.stop_reason: str | None = None
        self.may_continue = False  # whether the run was stopped only for a while
        self.interrupted_by: signal.Signals | None = None
        self.run: RunDirectory | None = None
        self.tested: Record | None = None
        self.fit_settings: Record = {}  # the settings of this `fit`; a resumed run must have the same ones
        self.reading = NOTHING  # the sums at the last step record of this epoch

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_after(0)

    def lr_after(self, further: int) -> float:
        """The learning rate after `further` more steps of this epoch."""
        return self.plateau_rate * self._scheduled(further)

    def rates(self, further: int = 0) -> list[float]:
        """`lr_after` for each optimizer of a `Groups`, or for the only optimizer, as a list."""
        return [self.plateau_rate * rate for rate in self.optimizer.rates(self._scheduled(further), further)]

    def _scheduled(self, further: int) -> float:
        factor = self.schedule(self.steps + further, self.total_steps, max(self.batches, 1))
        return self.optimizer.lr * schedules.checked_factor(self.schedule, factor)

    def step(self, x: Array, y: Array, part: NamedRange = profiling.part, *, batch: int | None = None) -> None:
        """One training step on a batch, for a loop without `fit`: `step_on` at the rate `lr`. A call of
        `optimizer.advance(rate)` before the step sets another rate. part, batch: as in `step_on`.

        Raises ValueError for a schedule, unless `optimizer.advance` was called or a `fit` set the run's length, and
        RuntimeError if the net was moved or converted by `net.to` since the trainer was made."""
        if not (self.optimizer.advanced or self.batches or self.schedule == Constant()):
            raise ValueError(
                f"the schedule {self.schedule} needs the length of the run, which `fit` sets; call "
                "trainer.optimizer.advance(rate) before each step, or leave the schedule out"
            )
        self.expect_net_as_made()
        with backends.current_device_of(self.totals.array):  # a user's loss, layers and optimizer may call CuPy
            if not self.has_trained:
                self.take_weights()
            self.step_on([(x, y)], part, batch=batch, rate=None if self.optimizer.advanced else self.lr)

    def take_weights(self) -> None:
        """Take over weights that were loaded since the trainer was made: as the masters of 16-bit parameters and,
        before the first step, as the moving averages."""
        self.optimizer.take_weights(self.net.params())
        if self.ema and not self.has_trained:
            self.ema.begin()

    @property
    def has_trained(self) -> bool:
        """Whether a step was made; `optimizer.advance` already counts the one that follows."""
        return self.steps > self.optimizer.advanced

    def follow_plateau(self) -> None:
        """Compute the plateau's factor from the epochs so far."""
        if self.plateau:
            self.plateau_rate = self.plateau.rate(self.history)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.batches

    @property
    def history(self) -> History:
        """A record for each epoch."""
        found = History(record for record in self.records if record["event"] == "epoch")
        found.tested = self.tested
        return found

    def stop(self, reason: str, *, may_continue: bool = False) -> None:
        """Ask the loop to end after the current step; the first reason given counts.

        Args:
            reason: Why the run ends.
            may_continue: Whether the run may be continued later. Then data that is due only at the end of the run is
                not evaluated.
        """
        if not self.stop_reason:
            self.stop_reason, self.may_continue = reason, may_continue

    def accuracy(self, sums: Reading) -> float | None:
        """The accuracy in these sums; None if the loss does not classify, or if no label counted."""
        return sums.accuracy if sums.samples and losses.classifies(self.loss) else None

    def read_totals(self) -> Reading:
        """The sums of this epoch so far. Raises DivergedError if the loss is not finite."""
        sums = self.totals.read()
        if not math.isfinite(sums.loss_sum):
            finite = int(sums.finite_steps + 1e-6)  # a step of n parts adds n * (1 / n), which may be less than 1
            first = self.epoch * self.batches + finite + 1
            raise DivergedError(
                self.divergence_message(f"the loss is not finite at step {first} (epoch {self.epoch + 1})")
            )
        return sums

    def expect_same_weights(self) -> None:
        """Raise ParallelError that names a rank whose net differs from rank 0's. On different kinds of processors, for
        example, matrix products in an optimizer may differ in the last bit."""
        if self.ranks.size > 1:
            arrays = {name: backends.to_numpy(array) for name, array in self.net.state_dict().items()}
            found = {name: rank_digests.of(array.tobytes()) for name, array in arrays.items()}
            self.ranks.expect_same({"weights": found}, compare_settings.differences)

    def divergence_message(self, what: str) -> str:
        """The message of a DivergedError."""
        kept = f"; {self.run.last} was saved before that" if self.run else ""
        return f"{what}, so training stopped{kept}. A lower learning rate usually helps, or images without NaN"

    diverged = divergence_message  # its former name

    def settings(self) -> Record:
        """The settings that must be the same when a run is resumed. JSON-serializable."""
        written = {name: each and str(each) for name, each in {"plateau": self.plateau, "clip": self.clip}.items()}
        optional = {"shards": self.shards, "ema": self.ema and self.ema.decay} | written
        optional |= {"sync_batch_norm": True} if self.sync_batch_norm else {}
        optional |= {"accumulate": self.accumulate} if self.accumulate > 1 else {}
        return {
            "net": {name: value for name, value in self.net.config().items() if name != "precision"},
            "precision": self.net.precision,
            "loss_scale": self.loss_scale and self.loss_scale.config(),
            "optimizer": self.optimizer.config(),
            "loss": losses.describe(self.loss),
            "schedule": str(self.schedule),
            "seed": self.seed,
            "epochs": self.epochs,
        } | {name: value for name, value in optional.items() if value}

    def snapshot(self) -> Checkpoint:
        """All state on which the rest of the run depends. With a sharded optimizer, every rank has to call this.

        Raises DivergedError if the loss or a parameter is not finite."""
        sums = self.read_totals()
        net = backends.host_copies(self.net.state_dict())
        for name in self.net.params():
            if not np.isfinite(net[name].astype(np.float64)).all():
                raise DivergedError(self.divergence_message(f"{name} is not finite after step {self.steps}"))
        tensors = {f"net.{name}": array for name, array in net.items()}
        optimizer = self.optimizer.state_dict()
        if self.optimizer_shards:
            optimizer = self.optimizer_shards.gathered(optimizer)
        self.gather_averages()
        tensors |= self.ema.parts() if self.ema else {}
        tensors |= {f"optimizer.{name}": array for name, array in optimizer.items()}
        state = {
            "net": self.net.config(),
            "settings": self.fit_settings,
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": sums.numbers(),
            "read": self.reading.numbers(),
            "records": self.records,
            "loss_scale": self.loss_scale and self.loss_scale.read(),
        }
        return Checkpoint(tensors, as_json(state))

    def last_of(self, run: RunDirectory) -> Checkpoint | None:
        """A run's last checkpoint. None, with a logged warning, if the run was killed before it saved one.

        Raises CheckpointError if the checkpoint is missing although the run has files that are written only after the
        first checkpoint. Raises SettingsError if the run has saved no checkpoint yet and has other settings than this
        `fit`."""
        settings = run.settings()
        if run.last.exists():
            return checkpoints.load(run.last)
        if begun := run.begun():
            best = f", or copy {run.best.name} there to resume after the best epoch" if run.best.exists() else ""
            raise CheckpointError(
                f"{run.last} is missing, but the run had begun and wrote {', '.join(begun)}. "
                f"Put the checkpoint back{best}"
            )
        self._expect_settings(settings, run)
        log.warning("%s has no checkpoint yet; the run begins with its first step", run)
        return None

    def restore(self, checkpoint: Checkpoint, path: str | os.PathLike[str] = "the checkpoint") -> None:
        """Restore a snapshot made with the settings of this `fit`; nothing changes if this raises."""
        state = run_schemas.state(checkpoint.state, path)
        # If one of these settings differs, the net may differ too: the error must name the setting, which is the cause.
        self._expect_settings(state["settings"], path, only=("precision", "train", "validation", "test"))
        check_weights.check_net(path, checkpoint, self.net)
        self._expect_settings(state["settings"], path)
        if state["batch"] > self.batches:  # all steps of an epoch: a callback may save after its last one
            raise CheckpointError(f"{path}: batch is {state['batch']}, and an epoch has {self.batches} steps")
        if bool(self.loss_scale) != bool(state["loss_scale"]):
            used = "one" if self.loss_scale else "none"
            raise CheckpointError(
                f"{path}: loss_scale is {checkpoints.short_json(state['loss_scale'])}, but this run has {used}"
            )
        try:
            totals, reading = (self.totals.stored(state[name]) for name in ("totals", "read"))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if self.ema:
            self.ema.check(checkpoint, path)
        optimizer = {name: value for name, value in checkpoint.part("optimizer").items() if self._keeps_entry(name)}
        self._freeze_and_load(state["net"], optimizer, path)
        self.net.load_state_dict(checkpoint.part("net"))
        if self.ema:
            self.ema.restore(checkpoint)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.records, self.reading = copy.deepcopy(state["records"]), reading
        self.follow_plateau()
        self.totals.write(totals)
        if self.loss_scale:
            self.loss_scale.write(state["loss_scale"])

    def _keeps_entry(self, entry: str) -> bool:
        """Whether this rank keeps an entry of the optimizer's state, such as "velocity.conv1.weight"."""
        return self.optimizer_shards is None or self.optimizer_shards.keeps(entry.partition(".")[2])

    def _freeze_and_load(self, config: Record, optimizer: dict[str, np.ndarray], path: object) -> None:
        """Freeze the layers that are frozen in a checkpoint's net, as callbacks may have done during the run. Then load
        the optimizer's state. Raises CheckpointError if the state does not match, and any error of a user's optimizer;
        then nothing is changed."""
        layers, before = [*self.net.walk()], self.optimizer.state_dict()
        frozen_before = [layer.frozen for layer in layers]
        try:
            frozen_in_checkpoint = [layer.frozen for layer in Layer.from_config(config, initialize=False).walk()]
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        try:
            self._freeze(layers, frozen_in_checkpoint)
            self.optimizer.load_state_dict(optimizer)
        except Exception as error:
            self._freeze(layers, frozen_before)
            self.optimizer.load_state_dict(before)
            if isinstance(error, ValueError):
                raise CheckpointError(f"{path}: {error}") from error
            raise

    def _freeze(self, layers: list[Layer], frozen: list[bool | str | tuple[str, ...]]) -> None:
        for layer, names in zip(layers, frozen):
            layer.frozen = names
        self.optimizer.match(self.net.params())

    def _expect_settings(self, stored_settings: Record, path: object, only: tuple[str, ...] | None = None) -> None:
        """Raise SettingsError if stored settings differ from those of this `fit`. only: the names of the settings to
        compare; None compares all."""
        differences = compare_settings.setting_differences(stored_settings, self.fit_settings, only)
        if differences:
            raise SettingsError(f"{path} cannot be continued with other settings: {'; '.join(differences)}")
