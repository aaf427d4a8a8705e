"""Ctrl-C, SIGTERM and SIGHUP as requests to stop."""

from __future__ import annotations

import itertools
import signal
import threading
from types import FrameType
from typing import Any

from gpuconv.system.console import SIGNALS, handled_signals, say_in_handler

__all__ = ["SIGNALS", "Interrupts"]


class Interrupts:
    """A context in which the first signal is only recorded, as `requested`; a second one has its usual effect.

    If `mark_fulfilled` has not been called by the end of the context, the recorded signal takes effect then, unless an
    error ends the context. Handlers can be set only in the main thread; in other threads the context does nothing.
    """

    def __init__(self, notice: str) -> None:
        self.requested: signal.Signals | None = None
        self._notice = notice
        self._previous: dict[signal.Signals, Any] = {}
        self._calls = itertools.count()  # `next` on it is atomic, so no other signal can interrupt it
        self._fulfilled = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in handled_signals()}
            for number in self._previous:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.requested and not self._fulfilled and kind is None:
            signal.raise_signal(self.requested)

    def mark_fulfilled(self) -> None:
        """Say that the program has done what the signal asked for."""
        self._fulfilled = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if next(self._calls) == 0:
            self.requested = signal.Signals(number)
            say_in_handler(f"{self.requested.name}: {self._notice}")
        elif callable(previous := self._previous[signal.Signals(number)]):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
