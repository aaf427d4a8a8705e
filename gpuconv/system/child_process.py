"""A Python child process that answers questions: it reads each as a line of JSON from standard input, and answers with
lines of JSON.

The child must end when its input ends. So after the end of this process the child only finishes the questions that it
has received. A fault of the child raises no exception here; it is an answer: `{"ended": status}` when the child ends or
closes its output, `{"garbled": text}` for a line that is not a JSON object.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from gpuconv.types import Record

_LONGEST = 1 << 16  # characters of a line, at most
_GRACE = 1.0  # seconds that a child has to end after it closes its output
_PATIENCE = 5.0  # seconds to wait for a killed process; one that is stuck in a driver never ends


def command(module: str) -> list[str]:
    """The command of a process that runs `main` of a module of this package."""
    return [sys.executable, "-P", "-c", f"from {module} import main; main()"]


class Child:
    """A running child process. command: its command line. environment: variables in addition to this process's.
    errors: a file for its standard error; by default this process's."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], errors: IO[bytes] | None = None) -> None:
        import subprocess

        folder = str(Path(sys.modules["gpuconv"].__file__ or "").parent.parent)
        search_path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": search_path, **environment},
            process_group=0 if os.name == "posix" else None,  # only this process handles Ctrl-C
        )
        self._answers: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        with suppress(OSError, ValueError):  # the pipe is broken or closed
            while line := self._process.stdout.readline(_LONGEST):
                self._answers.put(_record(line))
        self._answers.put({"ended": self._status()})

    def _status(self) -> int | str:
        """The child's exit status, or text that says that it closed its output without ending."""
        import subprocess

        try:
            return self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "no status, but closed its output"

    def ask(self, question: object) -> None:
        assert self._process.stdin
        with suppress(OSError, ValueError):  # the child has ended; `answer` reports it
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def answer(self, patience: float = 0.0) -> Record | None:
        """The next answer, or None if there is none within `patience` seconds."""
        try:
            return self._answers.get(timeout=patience) if patience else self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Kill the child."""
        import subprocess

        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe and not self._reader.is_alive():  # closing would wait for the reader
                with suppress(OSError):
                    pipe.close()


def answer_writer() -> Callable[[Record], None]:
    """Called in the child: returns the function that writes an answer. From now on, output of libraries goes to
    standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(facts: Record) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    return answer


def _record(line: str) -> Record:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"garbled": line[:200]}
