"""Compares two records: which entries became faster or slower by more than the noise."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.record import Record, fastest_side
from bench.sides import OURS

FASTER, SLOWER, NOISE = "faster", "slower", "noise"


@dataclass(frozen=True)
class Change:
    """One entry of both records. ratio: B's time over A's. bound: the largest difference from 1 that noise explains."""

    key: str
    before: float
    after: float
    bound: float

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def verdict(self) -> str:
        if max(self.ratio, 1 / self.ratio) <= 1 + self.bound:
            return NOISE
        return SLOWER if self.ratio > 1 else FASTER


def changes(a: Record, b: Record) -> list[Change]:
    """A change for each entry with a time of gpuconv in both records, worst first.

    Noise is the difference between two timings of the same version. The bound is the largest of four: the noise of this
    entry and the median noise over all entries, in each record. Raises ValueError for records of different hardware.
    """
    if a.data["hardware"] != b.data["hardware"]:
        raise ValueError(
            f"{a.path.name} is of {a.data['hardware']} and {b.path.name} of {b.data['hardware']}: "
            "times of different hardware say nothing about the code"
        )
    usual_noise = max(_usual_noise(a), _usual_noise(b))
    found = []
    for key, entry in a.entries.items():
        other = b.entries.get(key)
        before, after = fastest_side(entry, OURS), other and fastest_side(other, OURS)
        if not other or not before or not after:
            continue
        bound = max(usual_noise, entry["noise"] or 0.0, other["noise"] or 0.0)
        found.append(Change(key, before["median"], after["median"], bound))
    return sorted(found, key=lambda change: -change.ratio)


def _usual_noise(record: Record) -> float:
    return statistics.median([e["noise"] for e in record.data["entries"] if e["noise"] is not None] or [0.0])


def text(a: Record, b: Record) -> str:
    """The changes beyond the noise as a table, then the counts of all verdicts and of entries in only one record."""
    found = changes(a, b)
    lines = [f"{'entry':<52} {'before':>10} {'after':>10} {'ratio':>6} {'noise':>6}"]
    shown = [change for change in found if change.verdict != NOISE]
    lines += [
        f"{c.key:<52} {1e3 * c.before:>8.3g}ms {1e3 * c.after:>8.3g}ms {c.ratio:>6.2f} {c.bound:>6.0%}  {c.verdict}"
        for c in shown
    ]
    counts = {verdict: sum(c.verdict == verdict for c in found) for verdict in (FASTER, SLOWER, NOISE)}
    end = f"{counts[FASTER]} faster, {counts[SLOWER]} slower, {counts[NOISE]} within the noise"
    only = [f"{len(x.entries.keys() - y.entries.keys())} only in {x.path.name}" for x, y in ((a, b), (b, a))]
    return "\n".join([*(lines if shown else []), f"{end}; {'; '.join(only)}"])
