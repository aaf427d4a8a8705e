"""Ctrl-C and SIGTERM as a request, not as an accident."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is only noted; a second one does what it did before.

    Handlers can be set in the main thread alone; elsewhere this does nothing.
    """

    def __init__(self, notice: str) -> None:
        self.requested: str | None = None
        self._notice = notice
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{self.requested}: {self._notice}\n".encode())

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
