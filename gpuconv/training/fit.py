"""The loop of `Trainer.fit`: epochs, steps and callbacks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends, profiling
from gpuconv.notices import notice
from gpuconv.training.callback_base import next_step
from gpuconv.training.callbacks import Checkpoints
from gpuconv.training.feeding import Feed
from gpuconv.training.interrupts import Interrupts
from gpuconv.training.run_state import DivergedError, RunState
from gpuconv.training.running_metrics import NOTHING
from gpuconv.training.shadow import Shadow
from gpuconv.training.step_counter import AHEAD, StepCounter
from gpuconv.training.step_graphs import Replay
from gpuconv.training.validation import HeldOut
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.training.protocols import CallbackLike

FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class Fit:
    """One call of `Trainer.fit`. Calling it trains until the last epoch is done or `run.stop` is called.

    run: the Trainer, which holds the progress. feed: its batches. held_out: the validation and test data. callbacks:
    those given to `fit`, and those that fill the run directory. metrics_every: the number of steps between readings of
    the loss. graph: whether steps are captured. interrupts: the signals that ask the run to stop. shadow: the shadow
    oracle, which checks calls of some steps.
    """

    def __init__(
        self,
        run: RunState,
        feed: Feed,
        held_out: HeldOut,
        callbacks: Sequence[CallbackLike],
        *,
        metrics_every: int,
        graph: bool,
        interrupts: Interrupts,
        shadow: Shadow | None = None,
    ) -> None:
        self.run = run
        self.feed = feed
        self.held_out = held_out
        self.callbacks = callbacks
        self.metrics_every = metrics_every
        self.interrupts = interrupts
        self.replay = Replay(run.net.device, graph, run.ranks)
        self.shadow = shadow
        self.checks_step = False  # whether the shadow oracle checks calls of the next step
        self.around = [each.around_step for each in callbacks if hasattr(each, "around_step")]

    def __call__(self) -> None:
        """Run the epochs, between the callbacks' `on_start` and `on_stop`."""
        # NumPy's warnings are off, because the readings of the loss detect an overflow and also name the step.
        # The net's device is the current one, because losses, layers and callbacks of the user's own may call CuPy.
        with (
            np.errstate(over="ignore", invalid="ignore"),
            profiling.ranges(),
            contextlib.closing(self.replay),
            backends.current_device_of(self.run.totals.array),
        ):
            started: list[CallbackLike] = []
            try:
                for callback in self.callbacks:
                    self._notify([callback], "on_start")
                    started.append(callback)
                self._epochs()
                if self.shadow:
                    self.shadow.finish()
                self.run.stop(FINISHED)
                self._test()
            except BaseException as error:
                self.run.stop_reason = FAILED
                for callback in started:  # an error in a callback must not hide why the run failed
                    try:
                        self._notify([callback], "on_stop", FAILED)
                    except Exception as more:
                        error.add_note(f"{type(callback).__name__} could not end: {more}")
                raise
            self._end()

    def _notify(self, callbacks: Sequence[CallbackLike], event: str, *arguments: object) -> None:
        for callback in callbacks:
            if (method := getattr(callback, event, None)) is not None:
                method(self.run, *arguments)

    def _notify_and_save(self, event: str, record: Record | None) -> None:
        """Call `on_step` or `on_epoch` of every callback. `Checkpoints` is called last, so that a resumed run begins
        with what the others have changed, such as frozen layers."""
        self._notify([each for each in self.callbacks if not isinstance(each, Checkpoints)], event, record)
        self._match_optimizer()
        if event == "on_epoch" and any(not type(each).__module__.startswith("gpuconv.") for each in self.callbacks):
            # Ours change no weights. This copies all weights and masters of a 16-bit net to the host.
            self.run.optimizer.take_weights(self.run.net.params())
        self._notify([each for each in self.callbacks if isinstance(each, Checkpoints)], event, record)

    def _match_optimizer(self) -> None:
        if self.run.optimizer.match(self.run.net.params()):  # a callback froze or unfroze a layer
            self._make_counter()

    def _end(self) -> None:
        """Call every callback's `on_stop`. Raises only if the run could not be saved: the failure of another callback
        is only a warning, because the results must not be lost."""
        unsaved: Exception | None = None
        failed: list[str] = []
        for callback in self.callbacks:
            try:
                self._notify([callback], "on_stop", self.run.stop_reason)
            except Exception as error:
                if isinstance(callback, Checkpoints):
                    unsaved = error
                else:
                    name, why = type(callback).__name__, f"{type(error).__name__}: {error}"
                    failed.append(f"{name} failed at the end of the run: {why}")
        for message in failed:
            unsaved.add_note(message) if unsaved else notice(message)
        if unsaved:
            raise unsaved

    def _epochs(self) -> None:
        """Train until the last epoch is complete or something stops the run."""
        run, feed, replay = self.run, self.feed, self.replay
        if not run.batches:
            raise ValueError("the loader has no batch: its length is 0")
        if replay.most_steps > 1 and not feed.on_device:
            replay.give_up(f"the batches come from a {type(feed.loader).__name__}, not from a gpuconv.data.Loader")
        if replay.most_steps > 1 and not run.optimizer.capturable:
            replay.give_up(f"the optimizer {run.optimizer.config()['optimizer']} steps on the host")
        if not run.steps:
            run.take_weights()
        self._make_counter()
        self._agree_on_stopping()
        while run.epoch < run.epochs and not run.stop_reason:
            if run.batch == run.batches:  # an error ended the previous `fit` after an epoch's last step
                self._notify_and_save("on_epoch", self._record_epoch(run.lr_after(-1)))
                self._agree_on_stopping()
                continue
            with contextlib.closing(feed):
                feed.enter(run.epoch, run.batch)
                self.counter.planned.clear()
                epoch = run.epoch
                while run.epoch == epoch and not run.stop_reason:
                    self._match_optimizer()
                    self._plan()
                    self.checks_step = self.shadow is not None and self.shadow.due()
                    count = 1 if self.checks_step or self.around else self._steps_together()
                    self._advance(count)
                    for _ in range(count):
                        self._record()
                    self._agree_on_stopping()

    def _agree_on_stopping(self) -> None:
        """Stop if a signal or a callback on any rank requests it. If several do, the reason of the lowest rank
        counts."""
        run = self.run
        if self.interrupts.requested:
            run.stop(INTERRUPTED)
        requests = run.ranks.gather((run.stop_reason, run.may_continue, self.interrupts.requested))
        reasons = [each for each in requests if each[0]]
        run.stop_reason, run.may_continue, signal = reasons[0] if reasons else (None, False, None)
        run.interrupted_by = signal if run.stop_reason == INTERRUPTED else None

    def _make_counter(self) -> None:
        self.counter = StepCounter(self.run.optimizer, self.run.net.device)
        self.run.net.grads()  # allocate now: a graph needs fixed addresses

    def _plan(self) -> None:
        """Write the learning rates of the next steps to the device, unless it has them already."""
        run = self.run
        if self.counter.planned and self.counter.planned[0] == run.rates():
            return
        run.ranks.barrier()  # because `write` waits for the GPU, which could wait for a rank that has failed
        ahead = range(min(AHEAD, run.batches - run.batch))
        rates = [run.rates(step) for step in ahead]
        self.counter.write(run.steps, *self.feed.place(run.epoch, run.batch), rates)

    def _steps_together(self) -> int:
        """The number of steps that may run before the host has to act. Each of them takes the same number of
        images."""
        if not self.feed.on_device:
            return 1
        limits = [next_step(callback, self.run) for callback in self.callbacks]
        limits += [
            self.replay.most_steps,
            len(self.counter.planned),
            self.metrics_every - self.run.steps % self.metrics_every,
        ]
        count = min(limit for limit in limits if limit is not None)
        batch, size = self.run.batch, self.feed.size(self.run.batch)
        return next((n for n in range(1, count) if self.feed.size(batch + n) != size), count)

    def _advance(self, count: int) -> None:
        """Run `count` steps: load batches, advance the step counter, train. If the feed is `on_device`, all of this is
        device work."""
        size = self.feed.size(self.run.batch)
        work = partial(self.feed.step, self.counter, size, self.run.step_on)
        if self.checks_step or self.around:  # not captured; the results have the same bits
            with contextlib.ExitStack() as contexts:
                for each in self.around:
                    contexts.enter_context(each(self.run))
                if self.shadow and self.checks_step:
                    contexts.enter_context(self.shadow.checking(self.run.steps + 1))
                work()
        else:
            self.replay.run(work, count, size, self.run.inputs)

    def _record(self) -> None:
        """Do the host's part of a step, which the device has run or will run."""
        run, lr = self.run, self.run.lr
        self.counter.planned.popleft()
        run.optimizer.count()
        run.batch += 1
        due = run.steps % self.metrics_every == 0
        self._notify_and_save("on_step", self._record_step(lr) if due else None)
        if run.batch == run.batches:
            self._notify_and_save("on_epoch", self._record_epoch(lr))

    def _record_step(self, lr: float) -> Record:
        """Read the sums and record the metrics of the steps since the last reading."""
        run = self.run
        run.ranks.barrier()
        sums = run.read_totals()
        recent, run.reading = sums.since(run.reading), sums
        record = {"event": "step", "step": run.steps, "epoch": run.epoch + 1}
        run.records.append(record | {"loss": recent.loss, "accuracy": run.accuracy(recent), "lr": lr})
        return run.records[-1]

    def _record_epoch(self, lr: float) -> Record:
        """Finish the epoch: record its training metrics and those of the held-out sets, and start the next."""
        run = self.run
        run.ranks.barrier()
        run.expect_same_weights()
        sums = run.read_totals()
        record: Record = {"event": "epoch", "step": run.steps, "epoch": run.epoch + 1, "lr": lr}
        record |= {"train_loss": sums.loss, "train_accuracy": run.accuracy(sums)}
        record |= self._measured()
        run.epoch, run.batch = run.epoch + 1, 0
        run.totals.clear()
        run.reading = NOTHING
        run.records.append(record)
        if run.plateau:
            run.follow_plateau()
            record["plateau"] = run.plateau_rate
        return record

    def _test(self) -> None:
        """Evaluate the sets that are due only at the end. A run that was interrupted or may be continued is not
        evaluated."""
        run = self.run
        continues = run.may_continue or run.stop_reason == INTERRUPTED
        if not continues and (found := self._measured(end=True)):
            run.tested = {"event": "test", "step": run.steps, "epoch": run.epoch} | found
            self._notify(self.callbacks, "on_test", run.tested)

    def _measured(self, end: bool = False) -> Record:
        """The measures of the held-out data (`HeldOut.measure`). Raises DivergedError for a loss that is not finite."""
        run = self.run
        run.gather_averages()
        with run.same_bits(), run.averaged():
            found = self.held_out.measure(run.net, run.loss, end, run.ranks)
        for name in self.held_out.loaders:
            loss = found.get(f"{name}_loss")  # None: the set is not due
            if loss is not None and not math.isfinite(loss):
                raise DivergedError(run.divergence_message(f"the {name} loss is {loss} after step {run.steps}"))
        return found
