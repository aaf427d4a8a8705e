"""A callback that sends a signal to its own process."""

from __future__ import annotations

import os

from gpuconv.training import Callback


class SignalAfterStep(Callback):
    """Send this process a signal after a step. step: counted from 1. number: the signal's."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            os.kill(os.getpid(), self.number)
