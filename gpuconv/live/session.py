"""The thread that trains a run and handles requests from browsers between steps.

Only that thread uses the net and its trainer; the server's thread reads no more than the shape of the net's input.
Requests reach the training thread through a queue; its messages (`view.py`) go into a hub, which never waits for a
browser.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from gpuconv.layers.sequential import Sequential
from gpuconv.live.hub import Hub
from gpuconv.live.mailbox import Mailbox
from gpuconv.live.requests import ENDED, FAILED, PAUSED, REQUESTS, TRAINING, LiveRun
from gpuconv.live.segment import DataSplits
from gpuconv.system.shell import command
from gpuconv.training.callback_base import Callback
from gpuconv.training.callbacks import describe
from gpuconv.training.fit import FINISHED
from gpuconv.training.run_state import RunState
from gpuconv.types import Record

CLOSED = "closed"  # why the last segment ends


class Session(LiveRun, Callback):
    """A run that the page shows: a new run of a recipe on data sets, or a continued run.

    Args:
        sets: The images to train, validate and test on.
        recipe: The settings of a run, as its checkpoint stores them: net, loss, optimizer, schedule, seed and so on.
        device: The device's name, such as "numpy".
        why: The reason for the device, which the page shows.
        home: The folder for new runs.
        name: The prefix of their names.
        run_dir: The run to continue; by default a new one begins.
        prepare: Called on the net with its initial weights, and again on `restart`; not on a net that a browser sends.
        prepared: What `restart` adds to the recipe's options if it calls `prepare`, JSON-serializable.
        repeat: Changes of settings, each with the step after which it is made.
        hub: Carries messages to browsers; by default a new one.

    Raises ValueError, TypeError or DataError if recipe and data do not fit, before anything is written.
    """

    def __init__(
        self,
        sets: DataSplits,
        recipe: Record,
        *,
        device: str,
        why: str = "",
        home: str | Path = "runs",
        name: str = "live",
        run_dir: str | Path | None = None,
        prepare: Callable[[Sequential], None] | None = None,
        prepared: Record | None = None,
        repeat: Sequence[tuple[int, Record]] = (),
        hub: Hub | None = None,
    ) -> None:
        super().__init__(sets, recipe, device, why, home, name, run_dir, prepare, prepared or {}, hub)
        self.spent = 0.0  # seconds in the callbacks, without those for requests and pauses
        self.worked = 0.0  # seconds of training and callbacks, without those for requests and pauses
        self._mailbox = Mailbox(REQUESTS)
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._closing = False
        self._answers_after_step = False  # whether requests are answered after the current step
        self._repeat = deque(repeat)

    # --- from any thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that trains and answers requests. Raises ValueError for a session that has ended."""
        if self._closing or (self._thread.ident is not None and not self._thread.is_alive()):
            raise ValueError("the session has ended; make a new one, with run_dir=... to continue its run")
        self._thread.start()

    def ask(self, name: str, /, **arguments: object) -> Future[object]:
        """Have the training thread handle a request between two steps.

        Args:
            name: One of `REQUESTS`, the methods of this class that a browser may call.
            **arguments: The arguments of that method.

        Returns:
            A future with its result or exception.

        Raises ValueError for an unknown request, and RuntimeError if the session has ended. If it ends before it has
        answered, the future raises that error.
        """
        return self._mailbox.ask(name, arguments)

    def close(self, timeout: float = 60.0) -> None:
        """Finish the step, save, and end the thread.

        Args:
            timeout: The seconds to wait for the thread to end. After them this returns while the thread goes on, and
                the end of the process ends it, even if it has not saved yet.
        """
        self._closing = True
        self._mailbox.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        else:
            self._mailbox.close()

    # --- the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._train_and_answer()
        finally:
            self._mailbox.close()

    def _train_and_answer(self) -> None:
        self._show_all()
        while not self._closing:
            if self.phase == TRAINING or self._steps_allowed:
                self._train()
            while self._next and not self._closing:
                self._do_next()
                self._serve()  # requests that came with the one that ended the segment
            if self.phase != TRAINING and not self._steps_allowed and not self._closing:
                self._serve(wait=not self.view.attribution.unfinished)

    def _train(self) -> None:
        """Train one segment, from the current state to its end or the next change."""
        self.say(f"run {self.run_dir}, from step {self.trainer.steps}")
        try:
            self.segment.fit(self.run_dir, self._resume, [self])
        except Exception as error:  # any error: the page shows it, and a new run can be started
            self._fail(error)
        else:
            if self.trainer.stop_reason == FINISHED:
                self.phase, self._steps_allowed = ENDED, 0
                self.say(f"finished after step {self.trainer.steps}")
            elif self.trainer.stop_reason == CLOSED:
                again = command("gpuconv", "live", self.run_dir)
                self.say(f"saved after step {self.trainer.steps}; continue with: {again}")
        self._resume, self._under_way = True, False
        self._show_all()

    def _do_next(self) -> None:
        """Do the work of a request that has to be done between two segments."""
        do, self._next = self._next, None
        try:
            assert do is not None
            do()
            self._repeat_changes()
        except Exception as error:
            self._fail(error)
        self._show_all()

    def _fail(self, error: Exception) -> None:
        self.phase, self.message, self._steps_allowed = FAILED, str(error) or type(error).__name__, 0
        self.say(f"failed: {self.message}")

    def _repeat_changes(self) -> None:
        """Make the changes in `repeat` that are due. While a segment runs, only the first is made, because it ends the
        segment."""
        while self._repeat and self.trainer.steps >= self._repeat[0][0] and not self._next:
            self.change(self._repeat.popleft()[1])

    def _serve(self, wait: bool = False) -> None:
        """Answer the pending requests, up to one that ends the segment. wait: wait for at least one."""
        self._mailbox.answer(
            lambda name, arguments: getattr(self, name)(**arguments), until=lambda: self._next is not None, wait=wait
        )
        if self.phase != TRAINING:
            self.view.budget.make_due("state", "map")  # the run waits for requests, so this delays no step
            self._show()

    # --- callbacks -----------------------------------------------------------------------------

    def next_step(self, trainer: RunState) -> int | None:
        """The number of steps that `trainer` may run at once: 1 if something is due after the next step; otherwise the
        number of steps to the next change in `repeat`, or None for no limit if no change is left."""
        begun = time.perf_counter()
        requested = not self._mailbox.is_empty or self.phase == PAUSED or self.view.waits_for_step or self._closing
        self._answers_after_step = requested or self.view.is_due
        self.spent += time.perf_counter() - begun
        if self._answers_after_step or not self._repeat:
            return 1 if self._answers_after_step else None
        return max(1, self._repeat[0][0] - trainer.steps)

    def on_start(self, trainer: RunState) -> None:
        """`trainer` begins or continues a segment."""
        self._began = time.perf_counter()
        self._speed.begin(trainer.steps)
        self.view.forget_weights()
        self._under_way = True
        # Stays true where batches come from the host, because `next_step` is then not called.
        self._answers_after_step = True

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        """`trainer` has done a step, with a `record` of its metrics if they were due."""
        if trainer.batch < trainer.batches:  # after an epoch's last step, `on_epoch` does this
            self._after_step(trainer)

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        """`trainer` has done an epoch, with this `record`."""
        self.say(describe(record, trainer.epochs))
        self.view.confusion([record])
        self._after_step(trainer)

    def _after_step(self, trainer: RunState) -> None:
        """Make the changes that are due, show the run and answer requests; while the run is paused, wait here."""
        begun = time.perf_counter()
        waited = 0.0
        self._repeat_changes()
        if not self.hub.clients:
            self.view.forget_weights()  # no browser shows the update of the next step
        if self._answers_after_step:
            self._steps_allowed = max(0, self._steps_allowed - 1)
            if self.hub.clients:
                self._show()
            waiting = time.perf_counter()
            self._serve()
            while self._waits:
                self._serve(wait=not self.view.attribution.unfinished)
            waited = time.perf_counter() - waiting
        if self._closing:
            trainer.stop(CLOSED, may_continue=trainer.epoch < trainer.epochs)
        now = time.perf_counter()
        self.spent += now - begun - waited
        self.worked += now - self._began - waited
        self._began = now

    @property
    def _waits(self) -> bool:
        return self.phase == PAUSED and not (self._steps_allowed or self._next or self._closing)
