"""The result of a check: its status, the reason, and the verdicts in its details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ci.gate.verdict import Verdict
from gpuconv.types import Record

PASSED, FAILED, LATE, NOT_REACHED, STOPPED = "passed", "failed", "out of time", "not reached", "stopped"


class FailedError(Exception):
    """A check did not pass; the message is the reason. details: for the record."""

    status = FAILED

    def __init__(self, reason: str, **details) -> None:
        super().__init__(reason)
        self.details = details


class LateError(FailedError):
    """The time of a check ran out."""

    status = LATE


class NotReachedError(FailedError):
    """Something that the check needs is missing."""

    status = NOT_REACHED


class NoGpuError(NotReachedError):
    """There is no GPU, so no later check can be reached."""


class UnusableGpuError(NoGpuError):
    """There is a GPU, but gpuconv cannot use it: a failure."""

    status = FAILED


@dataclass
class Result:
    part: str
    check: str
    status: str
    reason: str
    seconds: float = 0.0
    details: Record = field(default_factory=dict)


def check_result(verdict: Verdict) -> tuple[str, Record]:
    """What the body of a check returns for the answer "yes": what was seen, and the verdict as details. Raises
    FailedError for "no" and NotReachedError for "unknown"."""
    details = {"verdicts": [vars(verdict)]}
    if verdict.answer == "yes":
        return verdict.seen, details
    raise (FailedError if verdict.answer == "no" else NotReachedError)(verdict.seen, **details)


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    return [Verdict(**each) for result in results for each in result.details.get("verdicts", ())]


def table(results: Sequence[Result]) -> str:
    """For a terminal: a line per check, the questions with their answers, and the count of each status."""
    lines = [f"{'part':<10} {'check':<18} {'result':<12} {'took':>7}  what"]
    for result in results:
        reason = " ".join(result.reason.split())
        took = f"{result.seconds:>6.0f}s" if result.seconds else f"{'-':>7}"
        lines.append(f"{result.part:<10} {result.check:<18} {result.status:<12} {took}  {reason}")
    lines += ["", *map(str, verdicts(results))]
    counts = {
        status: sum(result.status == status for result in results)
        for status in (PASSED, FAILED, LATE, STOPPED, NOT_REACHED)
    }
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counts.items() if count)])


def join_names(names: Sequence[str], most: int = 6) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def exit_status(results: Sequence[Result], no_gpu: bool) -> int:
    if any(result.status == STOPPED for result in results):
        return 130
    if no_gpu:
        return 3
    return 0 if all(result.status == PASSED for result in results) else 1
