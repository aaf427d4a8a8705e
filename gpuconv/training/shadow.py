"""The shadow oracle: while a run trains, calls of its ops are recomputed in float64 from the same arrays.

One budget covers both costs, copying in the run and checking in a worker process: together they take at most a given
share of the run's time. A call is checked when the budget covers its expected cost. Sites, which are combinations of
op, layer and direction, are drawn at random without replacement, so each is checked once before any is checked again.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuconv import arguments, checkpoint, plots
from gpuconv.layers.layer_call import tracked_layer
from gpuconv.names import canonical
from gpuconv.notices import Notice
from gpuconv.system.child_process import Child, command
from gpuconv.types import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpuconv.verify.call import Call

VIOLATIONS = ("stop", "warn")
START_SECONDS = 0.5  # the most processor time that the start of the worker takes
LEAST_CHECK_SECONDS = 2e-3  # no check is expected to take less
SECONDS_PER_BYTE = 1e-7  # the expected cost of a byte of the arguments, until it is measured
# A smaller call counts as this many bytes, because the time of its check is mostly fixed.
LEAST_MEASURED_BYTES = 1 << 18
MARGIN = 1.5  # a check is expected to take this many times as long as the longest one of the same site so far
PATIENCE_SECONDS = 60.0  # how long to wait for each of the last answers at the end of a run

Site = tuple[str, str, str]  # op, layer, direction


class ShadowError(RuntimeError):
    """A result of an op exceeds its bound; the message names the op, layer, step and a file that reproduces it."""


class ShadowWarning(Notice):
    """A result exceeds its bound and the run continues, or the shadow oracle itself had to end."""


@dataclass
class Row:
    """The results of checking an op in one direction of a layer. checked: the number of calls. skipped: the number of
    calls with inputs that are not finite, for which there is no bound. worst: the largest error as a share of its
    bound. where: the position and the values of that error, in words. step: the step in which it was found."""

    op: str
    layer: str
    direction: str
    checked: int = 0
    skipped: int = 0
    worst: float = 0.0
    where: str = ""
    step: int = 0


class Worker(Child):
    """The process that checks calls; see `gpuconv.verify.shadow_worker`."""

    def __init__(self) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        super().__init__(command("gpuconv.verify.shadow_worker"), one_thread | {"CUDA_VISIBLE_DEVICES": ""})

    def submit(self, path: Path) -> None:
        self.ask(str(path))


class Shadow:
    """The shadow oracle of a run. Call `close` at the end.

    share: the share of the run's time that it may take. violation: "stop" raises ShadowError, "warn" continues.
    folder: where calls that violate their bound are stored, by default the working directory. seed: the seed from
    which calls are drawn. rank: the rank, of several that train together and store into one folder. timer: returns
    seconds, as `time.perf_counter` does. make: starts the worker."""

    def __init__(
        self,
        share: float,
        violation: str = "stop",
        folder: Path | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
        timer: Callable[[], float] = time.perf_counter,
        make: Callable[[], Worker] = Worker,
    ) -> None:
        self.share = expect_share(share)
        self.violation = canonical("violation", violation, VIOLATIONS)
        self.folder, self.rank = folder or Path(), rank
        self.rows: dict[Site, Row] = {}
        self.timer, self._make = timer, make
        self._began = timer()
        # Seconds so far: of copying in the run, and of the worker since its start.
        self._copying = self._worker_seconds = 0.0
        self._worker: Any = None
        self._ready = self._ended = False
        self._pending: list[tuple[Path, Site, int, float, int]] = []  # (file, site, step, expected seconds, bytes)
        # For each site, the bytes of the arguments of its largest call in the first checked step. For a site that first
        # appears in a later step, the bytes of the arguments of its first call.
        self._sizes: dict[Site, int] = {}
        self._longest: dict[Site, float] = {}  # seconds of the longest check so far, copying included
        self._copying_of: dict[Site, float] = {}  # seconds of copying for the pending checks
        self._rate = 0.0  # the highest seconds per byte so far
        self._deck: list[Site] = []  # the sites that are still to be drawn before any is drawn again
        import random
        import tempfile

        self._random = random.Random(seed)
        self._files = tempfile.TemporaryDirectory(prefix="gpuconv-shadow-", ignore_cleanup_errors=True)

    # --- the budget ----------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        return self.timer() - self._began

    @property
    def spent(self) -> float:
        """Seconds spent so far, in the run and in the worker."""
        return self._copying + self._worker_seconds

    def _seconds_left(self) -> float:
        """Seconds that may be spent now. Reserved seconds are subtracted: those for the start of the worker, for the
        pending checks and, because a check may take longer than expected, for one more check as long as the longest so
        far."""
        starts = START_SECONDS if self._worker and not self._ready else 0.0
        reserved = starts + sum(expected for *_, expected, _ in self._pending)
        one_more = max(self._longest.values(), default=LEAST_CHECK_SECONDS)
        return self.share * self.elapsed - self.spent - reserved - one_more

    def _expected(self, site: Site) -> float:
        if site in self._longest:
            return MARGIN * self._longest[site]
        return LEAST_CHECK_SECONDS + (MARGIN * self._rate or SECONDS_PER_BYTE) * self._sizes[site]

    # --- choosing and recording calls ----------------------------------------------------------

    def due(self) -> bool:
        """Read the worker's answers, and return whether to check calls of the next step. Raises ShadowError for a
        violation."""
        if self._worker:
            self._read_answers()
        if self._ended or self._pending:
            return False
        if not self._worker:
            if self._seconds_left() < START_SECONDS:
                return False
            self._worker = self._make()
        if not self._ready:
            return False
        return not self._sizes or self._expected(self._next()) <= self._seconds_left()

    def _next(self) -> Site:
        """The next site to check."""
        if not self._deck:
            self._deck = sorted(self._sizes)
            self._random.shuffle(self._deck)
        return self._deck[-1]

    def _draw_sites(self) -> set[Site]:
        """The sites to check in this step: as many of the next sites as the budget covers. After a site whose cost was
        never measured, no further site is drawn in this step."""
        drawn: set[Site] = set()
        left = self._seconds_left()
        while self._sizes and (site := self._next()) not in drawn and self._expected(site) <= left:
            left -= self._expected(site)
            drawn.add(self._deck.pop())
            if site not in self._longest:
                break
        return drawn

    @contextmanager
    def checking(self, step: int) -> Iterator[None]:
        """A context around an uncaptured step. It passes the drawn calls to the worker; in the first checked step it
        only records which calls a step makes. step: the step's number, from 1."""
        from gpuconv.verify.call import recording

        drawn, seen = self._draw_sites(), set[Site]()
        listing = not self._sizes
        site: Site = ("", "", "")

        def wants(op: str, size: int) -> bool:
            nonlocal site
            site = (op, *current())
            seen.add(site)
            if listing or site not in self._sizes:
                self._sizes[site] = max(size, self._sizes.get(site, 0))
            if site not in drawn:
                return False
            drawn.discard(site)
            return True

        copies = partial(self._timing_copies, lambda: site)
        with tracked_layer() as current, recording(lambda call: self._hand_over(call, site, step), wants, copies):
            yield
        for gone in drawn - seen:  # a step no longer makes these calls, for example because a layer was frozen
            self._sizes.pop(gone, None)
            self._deck = [each for each in self._deck if each != gone]

    @contextmanager
    def _timing_copies(self, site: Callable[[], Site]) -> Iterator[None]:
        """A context that adds the time within it to the time spent on copying, in total and for the call's site."""
        start = self.timer()
        try:
            yield
        finally:
            seconds = self.timer() - start
            self._copying += seconds
            self._copying_of[site()] = self._copying_of.get(site(), 0.0) + seconds

    def _hand_over(self, call: Call, site: Site, step: int) -> None:
        path = Path(self._files.name) / f"{step}-{len(self._pending)}.safetensors"
        expected = self._expected(site)
        checkpoint.save(path, call.stored(layer=site[1], direction=site[2], step=step))
        self._worker.submit(path)
        self._pending.append((path, site, step, expected, self._sizes[site]))

    # --- answers -------------------------------------------------------------------------------

    def _read_answers(self, patience: float = 0.0) -> bool:
        """Process the worker's answers. Returns whether there was one."""
        heard = False
        while not self._ended and (answer := self._worker.answer(patience)) is not None:
            heard = True
            if "ended" in answer:
                self._end(f"its process ended with status {answer['ended']}")
                break
            if "garbled" in answer:
                self._end(f"its process gave an answer that is not a JSON object: {answer['garbled']!r}")
                break
            total = answer["seconds"]  # the processor time of the worker since its start
            seconds, self._worker_seconds = total - self._worker_seconds, total
            if "ready" in answer:
                self._ready = True
                continue
            path, site, step, _, size = self._pending.pop(0)
            seconds += self._copying_of.pop(site, 0.0)
            self._longest[site] = max(seconds, self._longest.get(site, 0.0), LEAST_CHECK_SECONDS)
            self._rate = max(self._rate, seconds / max(size, LEAST_MEASURED_BYTES))
            self._judge_answer(path, site, step, answer)
            if patience:
                break
        return heard

    def _judge_answer(self, path: Path, site: Site, step: int, answer: Record) -> None:
        row = self.rows.setdefault(site, Row(*site))
        if "failed" in answer:
            self._end(f"{site[0]} could not be checked: {answer['failed']}")
        elif "skipped" in answer:
            row.skipped += 1
        else:
            row.checked += 1
            if answer["share"] >= row.worst:
                row.worst, row.where, row.step = answer["share"], answer["text"], step
            if answer["share"] > 1:
                self._report_violation(path, row, step, answer)
        path.unlink(missing_ok=True)

    def _report_violation(self, path: Path, row: Row, step: int, answer: Record) -> None:
        place = f"{row.layer or 'net'}{f'-{row.direction}' if self._runs_both_ways(row) else ''}"
        place = re.sub(r"[^\w.+-]", "_", place)  # a layer's name may contain "/"
        place += f"-rank{self.rank}" if self.rank else ""
        kept = self.folder / f"shadow-{row.op}-{place}-step{step}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)  # rank 0 may have made it on another machine
        checkpoint.save(kept, checkpoint.load(path))
        message = (
            f"step {step}: {self._call(row)} is beyond its bound: {answer['text']}; "
            f"gpuconv shadow replay {kept} repeats the call"
        )
        if self.violation == "stop":
            self._ended = True
            raise ShadowError(message)
        warnings.warn(ShadowWarning(message), stacklevel=2)

    def _end(self, why: str) -> None:
        self._ended = True
        self._pending.clear()
        warnings.warn(ShadowWarning(f"the shadow oracle ended; training continues without it: {why}"), stacklevel=2)

    def finish(self) -> None:
        """Wait for the last answers. Raises ShadowError for a violation."""
        while self._pending and not self._ended and self._read_answers(PATIENCE_SECONDS):
            pass

    def close(self) -> None:
        """End the worker and remove files that are not kept."""
        if self._worker:
            self._worker.close()
        self._files.cleanup()

    # --- the report ----------------------------------------------------------------------------

    def report(self) -> list[Row]:
        """A row for each op, layer and direction, including those not yet checked; sorted by layer, then direction
        and op."""
        unseen = {site: Row(*site) for site in self._sizes}
        return sorted((unseen | self.rows).values(), key=lambda row: (row.layer, row.direction, row.op))

    def picture(self) -> Figure:
        """The figure of `gpuconv.plots.shares`: the worst error of each op, layer and direction that was checked."""
        rows = {f"{self._call(row)} ({row.checked})": {"run": row.worst} for row in self.report() if row.checked}
        return plots.shares(rows, title=str(self).partition("\n")[0])

    def _call(self, row: Row) -> str:
        """A row's call in words, with its direction if the layer runs the op in forward and in backward."""
        place = f" of {row.layer}" if row.layer else ""
        return f"{row.op}{place}{f', {row.direction}' if self._runs_both_ways(row) else ''}"

    def _runs_both_ways(self, row: Row) -> bool:
        """Whether the row's layer runs its op in forward and in backward."""
        return sum((op, layer) == (row.op, row.layer) for op, layer, _ in {*self._sizes, *self.rows}) > 1

    def __str__(self) -> str:
        rows = self.report()
        checked = sum(row.checked for row in rows)
        share = 100 * self.spent / self.elapsed if self.elapsed else 0.0
        head = f"shadow oracle: {checked} calls checked in {self.spent:.2f} s, {share:.2g} % of the time"
        if skipped := sum(row.skipped for row in rows):
            head += f"; {skipped} calls skipped, because an input was not finite"
        if not self._worker:
            first = (START_SECONDS + LEAST_CHECK_SECONDS) / self.share
            head += f"; with this share the first check comes after {first:.3g} s of training"
        if not checked:
            return head
        lines = [head, f"  {'layer':20} {'op':26} {'checked':>7} {'worst error / bound':>20}  at step"]
        for row in rows:
            worst = f"{row.worst:20.3g}  {row.step}" if row.checked else f"{'-':>20}"
            op = f"{row.op}, {row.direction}" if self._runs_both_ways(row) else row.op
            lines.append(f"  {row.layer or '-':20} {op:26} {row.checked:7} {worst}")
        most = max((row for row in rows if row.checked), key=lambda row: row.worst)
        lines.append(f"  nearest to its bound: {self._call(most)} at step {most.step}: {most.where}")
        return "\n".join(lines)


def expect_share(share: object) -> float:
    """Check a share of the run's time, above 0 and at most 1, and return it. Raises ValueError or TypeError, naming
    what was received."""
    found = arguments.number("shadow", share, 0.0)
    if not 0 < found <= 1:
        raise ValueError(
            f"shadow is a share of the run's time, above 0 and at most 1 (0.02 is 2 %), received {share!r}"
        )
    return found
