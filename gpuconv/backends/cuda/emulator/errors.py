"""The error that the emulator raises."""


class EmulatorError(RuntimeError):
    """A kernel violated a rule (the message names the kernel and, if known, block and thread), or the emulator cannot
    run."""
