"""Child processes with time limits: each is stopped when its time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ci.gate.results import FailedError, LateError
from gpuconv.types import Record

GRACE = 5.0  # seconds between asking a child to stop and killing it, and again before giving it up


@dataclass(frozen=True)
class Done:
    """A command that ended. code: its status. late: whether its time ran out."""

    code: int
    text: str
    seconds: float
    late: bool = False

    @property
    def last(self) -> str:
        """The last line of its output."""
        return next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "it printed nothing")

    def raise_for_status(self) -> None:
        """Raises LateError if the time ran out, and FailedError for a status other than 0."""
        if self.late:
            raise LateError(f"stopped after {self.seconds:.0f} s; its last line: {self.last[:160]}")
        if self.code:
            raise FailedError(f"status {self.code}: {self.last[:200]}")


@dataclass
class Gate:
    """State shared by the checks.

    out: the folder of results. home: the copy of the tree that the checks run in. logs: the folder of the children's
    output. device, commit, wheels, cubins: the options of these names (`python -m ci.gate --help`). python: the command
    of the interpreter. small: whether it is a rehearsal at small sizes. facts: findings of the first check for the
    others. environment: variables that every child gets.
    """

    out: Path
    home: Path
    logs: Path
    device: str = "cuda"
    commit: str = "unknown"
    wheels: Path | None = None
    cubins: Path | None = None
    python: tuple[str, ...] = (sys.executable,)
    small: bool = False
    facts: Record = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    _running: set[subprocess.Popen] = field(default_factory=set)

    def run(self, log: str, command: Sequence[str], seconds: float, **environment: str) -> Done:
        """Run a command in the copy with a time limit; its output is added to the log."""
        path = self.logs / log
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(self.logs.parent / "packages"), str(self.home)]
        known = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        start = time.monotonic()
        with path.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            begin = file.tell()
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self.home,
                    env=known | self.environment | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return Done(127, f"{command[0]}: {error.strerror}", 0.0)
            self._running.add(process)
            code, late = _wait(process, max(seconds, 1))
            if process.returncode is not None:  # otherwise the process was abandoned
                self._running.discard(process)
        output = path.read_bytes()[begin:].decode(errors="replace")
        return Done(code, output, time.monotonic() - start, late)

    def ask(self, log: str, words: Sequence[str], seconds: float, **environment: str) -> Done:
        """Run Python with these arguments."""
        return self.run(log, [*self.python, *words], seconds, **environment)

    def run_in_parallel(
        self, commands: Mapping[str, Sequence[str]], seconds: float, workers: int, **environment: str
    ) -> dict[str, Done]:
        """Run commands in parallel, started in order. commands: by the name of the log that each writes. Returns the
        results by the same names; commands that were not started in time are left out. The commands do not time
        algorithms to choose one, because they would disturb each other."""
        end, untimed = time.monotonic() + seconds, {"GPUCONV_AUTOTUNE": "0"}

        def run_one(name: str) -> Done | None:
            left = end - time.monotonic()
            return self.run(name, commands[name], left, **untimed, **environment) if left > 1 else None

        with ThreadPoolExecutor(workers) as pool:
            try:
                found = dict(zip(commands, pool.map(run_one, commands)))
            except KeyboardInterrupt:
                end = 0.0  # start no more
                self.stop()
                raise
        return {name: done for name, done in found.items() if done is not None}

    def stop(self) -> None:
        """End the running commands; the copy in which they run is about to be removed."""
        for process in list(self._running):
            _end(process)


def _wait(process: subprocess.Popen, seconds: float) -> tuple[int, bool]:
    """The status, and whether time ran out. No process of the child's group is left, except any that cannot be
    killed."""
    try:
        code, late = process.wait(seconds), False
    except subprocess.TimeoutExpired:
        code, late = _end(process), True
    _signal(process, signal.SIGKILL)  # processes that it left running
    return code, late


def _end(process: subprocess.Popen) -> int:
    """Ask the process to stop, then kill it, and finally give up: one that is blocked in a driver cannot be killed."""
    for how in (signal.SIGINT, signal.SIGKILL):
        _signal(process, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(GRACE)
    return -signal.SIGKILL


def _signal(process: subprocess.Popen, how: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)
