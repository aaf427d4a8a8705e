"""The goals of the NumPy code, and whether a record meets them.

The goals for time are relative to PyTorch's fastest variant on the same processor. A convolution's forward pass takes
at most 2 times as long, or 4 times with 3 input channels; with 10 input channels it has no goal. The forward and
backward passes together take at most 3 times as long, and so does a tiny-VGG step. `import gpuconv` takes at most 150
ms, and a tiny-VGG step needs at most 3 times the memory of its activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bench.record import Data, timed_sides
from bench.sides import OURS, PEER
from bench.suite import CONVOLUTIONS

FORWARD = {3: 4.0, 64: 2.0, 128: 2.0, 256: 2.0, 512: 2.0}  # by number of input channels; others have no goal
FORWARD_AND_BACKWARD, STEP, STEP_SHAPE = 3.0, 3.0, "tiny-vgg-n64"
MEASURES = {"import gpuconv": 150.0, f"memory of {STEP_SHAPE}": 3.0}

Goal = Data


def evaluate(data: Data) -> list[Goal]:
    """The goals for which a record has values: name, value, unit, limit, met, and `least` (see `_against_pytorch`)."""
    entries = {entry["key"]: entry for entry in data["entries"]}
    found: list[Goal] = []
    if data["kind"] == "numpy":
        found += _convolutions(entries)
        found += _against_pytorch(f"step {STEP_SHAPE}", STEP, entries.get(f"step {STEP_SHAPE} float32"))
    for measure in data["measures"]:
        found.append(_goal(measure["name"], measure["value"], MEASURES[measure["name"]], measure["unit"]))
    return found


def lines(goals: Iterable[Goal]) -> Iterator[str]:
    """For a terminal: each goal's value and limit, and whether it is met."""
    for goal in goals:
        verdict = "met" if goal["met"] else "NOT MET"
        least = f"({goal['least']:.3g} by the minimum of the samples)" if goal["least"] else ""
        value = f"{goal['value']:>7.3g} {goal['unit']:<18} goal {goal['limit']:<4g}"
        yield f"{goal['name']:<34} {value} {verdict:<8} {least}"


def _convolutions(entries: Mapping[str, Data]) -> Iterator[Goal]:
    for problem in CONVOLUTIONS["cpu"]:
        forward, backward = (entries.get(f"{op} {problem} float32") for op in ("fprop", "backward"))
        name = f"{problem.h}x{problem.w} {problem.c}->{problem.k}"
        yield from _against_pytorch(f"{name} forward", FORWARD.get(problem.c), forward)
        yield from _against_pytorch(f"{name} forward + backward", FORWARD_AND_BACKWARD, forward, backward)


def ratio(*entries: Data, statistic: str = "median") -> float | None:
    """Our total time for the entries, divided by PyTorch's.

    Each library is represented by the side with the smallest total among its sides that were timed for all entries.
    None if a library has no such side.

    statistic: which statistic of the samples counts, "median" or "least" (the minimum).
    """

    def fastest(role: str) -> float | None:
        sides = [timed_sides(dict(entry), role) for entry in entries]
        shared = set.intersection(*(set(names) for names in sides))
        return min((sum(by_name[name][statistic] for by_name in sides) for name in shared), default=None)

    ours, peer = fastest(OURS), fastest(PEER)
    return ours / peer if ours and peer else None


def _against_pytorch(name: str, limit: float | None, *entries: Data | None) -> Iterator[Goal]:
    """The goal, if there is a limit and both libraries were timed. Its `least` is the ratio of minimum times, for
    comparison."""
    present = [entry for entry in entries if entry]
    if limit and len(present) == len(entries) and (value := ratio(*present)):
        yield _goal(name, value, limit, "x PyTorch", ratio(*present, statistic="least"))


def _goal(name: str, value: float, limit: float, unit: str, least: float | None = None) -> Goal:
    return {"name": name, "value": value, "limit": limit, "unit": unit, "met": value <= limit, "least": least}
