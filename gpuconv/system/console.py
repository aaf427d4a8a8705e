"""Messages and progress bars on the console, which may be closed, and the signals that end a run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gpuconv.text.plain_text import one_line, printable

if TYPE_CHECKING:
    from tqdm import tqdm

logging.getLogger("gpuconv").addHandler(logging.NullHandler())  # silent until a handler is added
log = logging.getLogger(__name__)
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def handled_signals() -> list[signal.Signals]:
    """The signals in SIGNALS that this process does not ignore; under `nohup`, for example, it ignores SIGHUP.

    SIGINT is always included: shells ignore it for background jobs, but `kill -INT` must end those cleanly too.
    """
    return [each for each in SIGNALS if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN]


def say(text: str, stream: str = "stderr") -> None:
    """Print a line on sys.stderr or sys.stdout; it is dropped if the stream is closed, full or has no reader.

    Control characters, except line ends, are escaped.
    """
    if (file := getattr(sys, stream)) is not None:
        with contextlib.suppress(OSError, ValueError):
            print("\n".join(map(printable, text.split("\n"))), file=file, flush=True)


class _SayHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextlib.contextmanager
def log_on_stderr() -> Iterator[None]:
    """A context in which the library's log, from INFO on, goes to stderr, as on the command line."""
    logger, handler = logging.getLogger("gpuconv"), _SayHandler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


_QUIET = ContextVar("only results are printed", default=False)


@contextlib.contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """A context without progress bars and progress messages."""
    token = _QUIET.set(on or _QUIET.get())
    try:
        yield
    finally:
        _QUIET.reset(token)


def is_quiet() -> bool:
    return _QUIET.get()


def progress_bar(**options: Any) -> tqdm | _NoBar:
    """tqdm's bar with these options; none within `quiet`.

    If tqdm fails, for example because of an environment variable TQDM_..., a message says so, and there is no bar.
    """
    if is_quiet():
        return _NoBar()
    try:
        notebook = in_notebook()
        widgets = notebook and importlib.util.find_spec("ipywidgets")
        if widgets:
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
        if notebook and not options.get("disable"):
            out = {} if widgets else {"file": sys.stdout}  # notebooks show stderr on red
            options |= out | {"disable": False}
        return tqdm(**options)
    except Exception as error:
        return _no_bar(f"{type(error).__name__}: {one_line(error)}")


def in_notebook() -> bool:
    """Whether this process runs a notebook, which shows progress bars although stderr is not a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter, Colab


@functools.cache  # log each reason only once
def _no_bar(why: str) -> _NoBar:
    log.warning("no progress bar: %s; tqdm reads the variables TQDM_...", why)
    return _NoBar()


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass

    def set_postfix(self, **_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def write(self, text: str) -> None:
        print(text)


def say_in_handler(text: str) -> None:
    """Write a line to standard error from a signal handler: without Python's streams, which the signal may have
    interrupted, and only if this does not block."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # sys.stderr may be None
        number = sys.stderr.fileno()
        if os.name != "posix" or select.select([], [number], [], 0)[1]:
            os.write(number, f"\n{text}\n".encode())
