"""Puts questions to the prover's child process, which may hang, crash, give wrong answers or run out of memory.

The child runs `gpuconv.verify.prover_child`. It answers a question in two lines: `{"prepared": true}` before the
algorithm runs for the first time, then `{"of": ..., "status": ..., "reason": ..., "seconds": ...}`. If it cannot
prepare the question, it writes only the second line. A failure before the algorithm runs is no evidence against it.
`of` is the fingerprint of what the child ran, as computed by the child; an answer with another fingerprint proves and
refutes nothing.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from gpuconv.backends.cuda import cache
from gpuconv.system import child_process
from gpuconv.types import Record

START, PREPARE, LIMIT = 30.0, 30.0, 10.0  # most seconds to start, to prepare a question, and to run the algorithm
IDLE = 60.0  # seconds without a question after which the child is ended, because it holds GPU memory
MOST_WITHOUT_PROOF = 8  # after so many questions without a proof, `gave_up` is true

PROVED, REFUTED, UNABLE = "proved", "refuted", "unable"
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGTRAP")  # signals that a program causes itself

command = child_process.command("gpuconv.verify.prover_child")


@dataclass(frozen=True)
class Answer:
    """The answer to a question. status: PROVED, REFUTED (evidence against the algorithm) or UNABLE (no evidence).
    reason: text for people. seconds: the duration of the proof."""

    status: str
    reason: str
    seconds: float = 0.0


class Prover:
    """Starts the child when a question needs it, and ends it after a question without a proof, or after IDLE seconds
    without a question. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._child: child_process.Child | None = None
        self._errors: IO[bytes] | None = None
        self.without_proof = 0
        self._idle: threading.Timer | None = None

    def ask(self, question: Record, subject: str) -> Answer:
        with self._lock:
            self._cancel_idle_timer()
            answer = self._ask(question, subject)
            if answer.status == PROVED:
                self._idle = threading.Timer(IDLE, self.close)
                self._idle.daemon = True
                self._idle.start()
            else:  # a faulty algorithm may have damaged the child's state
                self.close()
                self.without_proof += 1
            return answer

    def _ask(self, question: Record, subject: str) -> Answer:
        if self._child and self._child.answer():  # the child has ended, or has written something without being asked
            self.close()
        if self._child is None and (why := self._start()):
            return Answer(UNABLE, why)
        assert self._child
        self._child.ask(question)
        before = self._child.answer(PREPARE)
        if before != {"prepared": True}:
            found = _checked(before, subject)
            if found and found.status == UNABLE:
                return found
            return Answer(UNABLE, f"the prover {self._fault(before, PREPARE, subject)}")
        answer = self._child.answer(LIMIT)
        if found := _checked(answer, subject):
            return found
        crashed = answer is None or ("ended" in answer and _signal(answer["ended"]) in _CRASHES)
        seconds = LIMIT if answer is None else 0.0
        return Answer(REFUTED if crashed else UNABLE, f"the prover {self._fault(answer, LIMIT, subject)}", seconds)

    def _start(self) -> str:
        """Start the child. Returns the reason if it cannot be started, or ""."""
        import tempfile

        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
            self._child = child_process.Child(command, _environment(), self._errors)
        except OSError as error:
            self.close()
            return f"the prover cannot be started: {error}"
        ready = self._child.answer(START)
        if ready == {"ready": True}:
            return ""
        why = f"the prover {self._fault(ready, START)}"
        self.close()
        return why

    def _fault(self, answer: Record | None, limit: float, subject: str = "") -> str:
        """The meaning of a missing or invalid answer."""
        if answer is None:
            text = f"did not answer within {limit:g} s"
        elif "ended" in answer:
            status = answer["ended"]
            how = _signal(status) or (f"status {status}" if isinstance(status, int) else status)
            text = f"ended with {how}{self._last_error()}"
        elif "garbled" in answer:
            text = f"printed {answer['garbled'][:60]!r}"
        elif answer.get("of", subject) != subject:
            text = "answered about another problem, other machine code or another GPU"
        else:
            text = f"answered {str(answer)[:60]!r}"
        return text

    def _last_error(self) -> str:
        """The last line of the child's standard error."""
        assert self._errors
        with suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
            lines = self._errors.read().decode("utf-8", "replace").split("\n")
            return next((f": {line.strip()[:160]}" for line in reversed(lines) if line.strip()), "")
        return ""

    def _cancel_idle_timer(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = None

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._cancel_idle_timer()
            if self._child:
                self._child.close()
            if self._errors:
                self._errors.close()
            self._child = self._errors = None


def _checked(answer: Record | None, subject: str) -> Answer | None:
    """The answer if it is complete and either UNABLE or about this subject; else None."""
    if not isinstance(answer, Mapping) or set(answer) != {"of", "status", "reason", "seconds"}:
        return None
    status, reason, seconds = answer["status"], answer["reason"], answer["seconds"]
    if status not in (PROVED, REFUTED, UNABLE) or not isinstance(reason, str) or type(seconds) not in (int, float):
        return None
    if (answer["of"] != subject and status != UNABLE) or not 0 <= seconds < math.inf:
        return None
    return Answer(status, " ".join(reason.split()), float(seconds))


def _signal(status: int | str) -> str:
    """The name of the signal that ended a process of this status, or ""."""
    with suppress(ValueError):
        return signal.Signals(-status).name if isinstance(status, int) else ""
    return ""


def _environment() -> dict[str, str]:
    """The child uses this process's cache, so it compiles nothing again."""
    return {"GPUCONV_CACHE_DIR": str(cache.default().folder)}


_prover = Prover()


def ask(question: Record, subject: str) -> Answer:
    """The prover's answer to a question. subject: the fingerprint of what is asked about, see `verdicts`."""
    return _prover.ask(question, subject)


def gave_up() -> bool:
    """Whether MOST_WITHOUT_PROOF questions of this process ended without a proof. After that, only explicit requests
    ask the prover."""
    return _prover.without_proof >= MOST_WITHOUT_PROOF


def close() -> None:
    """End the child, if there is one."""
    _prover.close()


def _begin_again() -> None:
    """In a forked process: forget the parent's prover."""
    global _prover
    _prover = Prover()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
