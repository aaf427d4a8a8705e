"""Runs the checks of parts in order, each with a time limit. After each check, the record is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci.gate import record
from ci.gate.commands import GRACE, Gate
from ci.gate.results import FAILED, NOT_REACHED, PASSED, STOPPED, FailedError, NoGpuError, Result
from gpuconv.types import Record

_SPARE = 3 * GRACE  # seconds at the end of a part for ending a child that is out of time

Found = tuple[str, Record]
Body = Callable[[Gate, float], Found]


@dataclass(frozen=True)
class Check:
    """A check of a part. weight: its share of the part's time. body(gate, seconds): returns a summary and details, or
    raises."""

    name: str
    weight: float
    body: Body


def checks(body: Callable[[str], Body], *weights: tuple[str, float]) -> tuple[Check, ...]:
    """Checks with these names and weights, whose bodies `body` makes from the names."""
    return tuple(Check(name, weight, body(name)) for name, weight in weights)


@dataclass(frozen=True)
class Part:
    name: str
    minutes: float
    checks: tuple[Check, ...]


def run_parts(parts: Sequence[Part], gate: Gate, seconds: float, report: Callable[[str], None]) -> list[Result]:
    """Run the parts in order, all within `seconds` and each within its own minutes; every check gets a result.

    Unused time of a check goes to the later checks of its part.
    """
    end, results = time.monotonic() + seconds, list[Result]()
    stopped_by = ""  # why no later check can run
    for part in parts:
        deadline = min(end, time.monotonic() + 60 * part.minutes) - _SPARE
        for number, check in enumerate(part.checks):
            limit = (deadline - time.monotonic()) * check.weight / sum(later.weight for later in part.checks[number:])
            if stopped_by:
                result = Result(part.name, check.name, NOT_REACHED, stopped_by)
            elif limit < 1:
                result = Result(part.name, check.name, NOT_REACHED, "earlier checks used up the time")
            else:
                report(f"{part.name} {check.name}: at most {limit:.0f} s")
                record.write(gate, results, f"{part.name} {check.name}")
                result = _run(part, check, gate, limit)
                stopped_by = result.details.pop("stopped_by", "")
            results.append(result)
            record.write(gate, results, None)
    return results


def _run(part: Part, check: Check, gate: Gate, limit: float) -> Result:
    start = time.monotonic()
    try:
        reason, details = check.body(gate, limit)
        result = Result(part.name, check.name, PASSED, reason, details=details)
    except FailedError as error:
        result = Result(part.name, check.name, error.status, str(error), details=error.details)
        if isinstance(error, NoGpuError):
            result.details = result.details | {"stopped_by": str(error).partition(":")[0]}
    except KeyboardInterrupt:
        gate.stop()
        result = Result(part.name, check.name, STOPPED, "Ctrl-C", details={"stopped_by": "Ctrl-C"})
    except Exception as error:  # a defect of the gate itself must not affect the other checks
        result = Result(part.name, check.name, FAILED, f"the gate: {type(error).__name__}: {error}")
    result.seconds = time.monotonic() - start
    return result
