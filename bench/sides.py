"""A side: one way to do an entry's work, ours or a peer's, and how its results are checked before it is timed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gpuconv.verify.compare import Expected, compare, relative_error

OURS, PEER, COPY = "ours", "peer", "copy"


@dataclass(frozen=True)
class Prepared:
    """A side that is ready to be timed. call(number): do the work once, on the input set that the number chooses if
    there are several. results(): what it computes, as host arrays in our layout; none if there is nothing to
    compare."""

    call: Callable[[int], object]
    results: Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Side:
    """One way to do an entry's work. role: ours, peer, or copy (the device's copy of the same bytes, for reference).
    prepare: may raise anything; the error is recorded and the run continues."""

    role: str
    name: str
    prepare: Callable[[], Prepared]


class WrongResultError(ArithmeticError):
    """The result of a side differs from the float64 one; the side is not timed."""


# The largest allowed ||result - float64|| / ||float64|| of any side: derived bounds of long sums are too wide to show a
# fault, and we have no bounds for a peer's algorithms (Winograd, say).
TOLERANCE = {"float64": 1e-10, "float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}


def check(compared: Iterable[tuple[Expected, np.ndarray]], dtype: str, *, bounded: bool) -> float:
    """The worst relative error of the results. bounded: every value must lie within its derived bound as well.

    Raises WrongResultError, which says where and by how much.
    """
    worst = 0.0
    for expected, given in compared:
        found, relative = compare(expected, given), relative_error(expected, given)
        if not relative <= TOLERANCE[dtype] or (bounded and found.wrong):
            raise WrongResultError(f"{expected.name} is off by {relative:.2g} of its size; {found.text}")
        worst = max(worst, relative)
    return worst


_PATH = re.compile(r"(?:[A-Za-z]:)?(?:/[\w.@+-]+){2,}/?")


def failure(error: BaseException) -> dict[str, str]:
    """The entry of a record for a side that was not timed: absent, out of memory, refused, left out or failed, and
    the first line of the reason, without details of this machine."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = _PATH.sub(lambda path: "…/" + path[0].rstrip("/").rpartition("/")[2], text)
    if isinstance(error, (ImportError, NotImplementedError)):
        status = "absent"
    elif isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in text.lower():
        status = "out of memory"
    elif isinstance(error, WrongResultError):
        status = "refused"
    elif isinstance(error, LeftOutError):
        status = "left out"
    else:
        status, text = "failed", f"{type(error).__name__}: {text}"
    return {"status": status, "reason": text[:240]}


class LeftOutError(Exception):
    """A side that this run does not measure; the message says why."""
