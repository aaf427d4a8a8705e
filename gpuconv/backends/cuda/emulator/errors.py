"""The error that the emulator raises, and what is restored after it."""

from __future__ import annotations

from collections.abc import Callable


class EmulatorError(RuntimeError):
    """A kernel violated a rule (the message names the kernel and, if known, block and thread), or the emulator cannot
    run."""


_restorers: list[Callable[[], object]] = []


def after_fault(restore: Callable[[], object]) -> None:
    """Have `restore` called, in the thread of the launch, when a launch ends with a fault."""
    _restorers.append(restore)


def restore_after_fault() -> None:
    for restore in _restorers:
        restore()
