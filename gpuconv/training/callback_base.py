"""What a callback is: its events, their arguments, and the base class.

A callback has some of these methods:

    on_start(trainer)            before the first step; a resumed run has loaded its checkpoint by then
    on_step(trainer, record)     after each step; record: the loss and accuracy every `metrics_every` steps, else None
    on_epoch(trainer, record)    after each epoch, with its record
    on_test(trainer, record)     at the end, if the test data is evaluated only then
    on_stop(trainer, reason)     at the end: "finished", "interrupted", "failed" or the reason given to `stop`

A callback may also have ``around_step(trainer)``, which returns a context. Each step runs in this context, and no step
is captured.

Each rank calls its callbacks. A callback with the attribute ``only_on_rank_0 = True`` is called only on rank 0.

``trainer.stop("reason")`` ends the run after the current step; with ``may_continue=True``, data that is due only at the
end is not evaluated. Checkpoints hold no state of callbacks; after a resume, a callback finds the past epochs in
``trainer.history``. The checkpoint of a step or an epoch is saved after ``on_step`` or ``on_epoch`` of all callbacks,
so that it holds what they have changed, such as frozen layers.

A callback may change the net's weights. In a 16-bit net the optimizer's float32 masters take over the changes of
``on_epoch`` and, before the first step, those of ``on_start``. The next step undoes those of ``on_step``, except after
an epoch's last step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpuconv.arguments import expect_accepts, integer
from gpuconv.names import canonical
from gpuconv.training.protocols import TrainerLike
from gpuconv.training.run_state import RunState
from gpuconv.types import Record


class Callback:
    """The base class of callbacks; its methods do nothing."""

    def on_start(self, trainer: TrainerLike) -> None:
        """Before the first step. `trainer`: the state, with `net`, `steps`, `epoch`, `records` and `stop(reason)`."""

    def on_step(self, trainer: TrainerLike, record: Record | None) -> None:
        """After a step of `trainer`. `record`: the entry for the log if the loss was read after this step, else
        None."""

    def next_step(self, trainer: TrainerLike) -> int | None:
        """The number of steps, at least 1, until `on_step` next reads or changes the state of `trainer`.

        1, the default for a callback with `on_step`, means every step; None means never. For the steps in between,
        `on_step` is still called, but perhaps only after all of them have run.
        """
        return _usual_next_step(self)

    def on_epoch(self, trainer: TrainerLike, record: Record) -> None:
        """After an epoch of `trainer`. `record`: the epoch's number, its training loss and accuracy, and the loss and
        accuracy on the validation and test data.
        """

    def on_test(self, trainer: TrainerLike, record: Record) -> None:
        """After the test at the end of a run of `trainer`. `record`: its results."""

    def on_stop(self, trainer: TrainerLike, reason: str) -> None:
        """When the run of `trainer` ends, for whatever reason, if this callback's `on_start` has returned. `reason`:
        "finished", "interrupted", "failed", or the reason given to `stop`.
        """


EVENTS = {  # the arguments of each event
    "on_start": ("trainer",),
    "on_step": ("trainer", "record"),
    "on_epoch": ("trainer", "record"),
    "on_test": ("trainer", "record"),
    "on_stop": ("trainer", "reason"),
}


def checked_callbacks(callbacks: Sequence[object]) -> list[Any]:
    """Callbacks as a list. Raises TypeError if they cannot be iterated over. Also raises TypeError if a callback is a
    class, has no event method, has a method "on_..." of an unknown event or in other letters (the message names the
    nearest event), or has a method that does not take its event's arguments."""
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks are a list, received {type(callbacks).__name__}")
    found = [*callbacks]
    for each in found:
        if isinstance(each, type):
            raise TypeError(f"a callback is an object, received the class {each.__name__}; call it: {each.__name__}()")
        for name in dir(each):
            if name.lower().startswith("on_") and name not in EVENTS and callable(getattr(each, name, None)):
                try:
                    hint = f"write {canonical('event', name, EVENTS)}"
                except ValueError as error:
                    hint = str(error)
                raise TypeError(f"{type(each).__name__}.{name} would never be called: {hint}")
        has = [event for event in EVENTS if _defines(each, event)]
        if not has:
            raise TypeError(f"a callback is an object with any of {', '.join(EVENTS)}, received {each!r}")
        for event in has:
            expect_accepts(f"{type(each).__name__}.{event}", getattr(each, event), *EVENTS[event])
    return found


def _defines(callback: object, event: str) -> bool:
    """Whether the callback defines a method for that event."""
    inherited = isinstance(callback, Callback) and getattr(type(callback), event) is getattr(Callback, event)
    return event in vars(callback) if inherited else hasattr(callback, event)


def _usual_next_step(callback: object) -> int | None:
    """The result of a `next_step` that the callback does not define."""
    return 1 if _defines(callback, "on_step") else None


def next_step(callback: object, trainer: RunState) -> int | None:
    """The callback's `next_step`, or the default of `Callback`. Raises ValueError or TypeError unless it is None or an
    integer of at least 1."""
    if hasattr(callback, "next_step"):
        steps = callback.next_step(trainer)
        return None if steps is None else integer(f"the result of {type(callback).__name__}.next_step", steps, 1)
    return _usual_next_step(callback)
