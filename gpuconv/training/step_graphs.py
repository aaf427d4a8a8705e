"""Steps as CUDA graphs: the first step of each batch size runs uncaptured; later ones are captured and replayed, up to
eight at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import partial

from gpuconv import backends
from gpuconv.notices import Notice
from gpuconv.parallel import Ranks

STEPS_PER_GRAPH = 8  # if the host has to act sooner, a graph of one step is replayed for each step

Work = Callable[[], None]


class UncapturedWarning(Notice):
    """Steps are not captured, although capture was requested; the message says why."""


class Replay:
    """Runs the device work of steps, as CUDA graphs if `captured`.

    Captured and uncaptured steps do the same work; a graph includes the exchange with other ranks, and either all ranks
    capture or none. Graphs and their memory live until `close`, or until a value or array that they contain changes
    (see `same` in `run`).
    """

    def __init__(self, device: str, captured: bool, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        self._recorder = backends.recorder(device) if captured else None
        self._same: object = None
        self._kept: list[object] = []  # the results of `same` for every graph, which keep the arrays that it uses
        self._graphs: dict[Hashable, dict[int, Work]] = {}

    @property
    def most_steps(self) -> int:
        """The largest number of steps that may run at once."""
        return STEPS_PER_GRAPH if self._recorder else 1

    def run(self, work: Work, steps: int, shape: Hashable, same: Callable[[], object]) -> None:
        """Run `work`, the device's part of one step, `steps` times.

        shape: a key, such as the size of the batch; each shape has its own graphs. same: a function that returns the
        values and arrays that the graphs contain; all graphs are dropped when these change, unless `work` itself
        changed them.
        """
        if self._recorder and same() != self._same:
            self._release_graphs()
        if self._recorder and shape not in self._graphs:
            self._recorder.prepare(work)
            self._graphs[shape] = {}
            self._keep(same())
            steps -= 1
        while steps:
            count = STEPS_PER_GRAPH if steps >= STEPS_PER_GRAPH else 1
            new = count not in self._graphs.get(shape, ())
            replay = self._graph(work, count, shape)
            if replay is None:
                break
            if new:
                self._keep(same())
            replay()
            steps -= count
        for _ in range(steps):
            work()

    def _keep(self, same: object) -> None:
        self._same = same
        self._kept.append(same)

    def _graph(self, work: Work, count: int, shape: Hashable) -> Work | None:
        """The graph of `count` steps, captured if necessary; None if it cannot be captured."""
        if self._recorder is None:
            return None
        graphs = self._graphs[shape]
        if count not in graphs:
            sent, failed = self._ranks.sent, None
            captured: Work = _do_nothing
            try:
                captured = self._recorder.capture(lambda: _repeat(work, count))
            except Exception as error:  # whatever it is: a failed capture has run nothing, so the work can still run
                failed = f"{type(error).__name__}: {error}"
            sent_per_replay = self._ranks.sent - sent
            self._ranks.sent = sent  # the capture itself sent nothing
            if reason := next(filter(None, self._ranks.gather(failed)), None):
                self.give_up(reason)
                return None
            graphs[count] = partial(self._launch, captured, sent_per_replay)
        return graphs[count]

    def _launch(self, captured: Work, sent: int) -> None:
        captured()
        self._ranks.sent += sent

    def close(self) -> None:
        """Release the graphs and their memory."""
        self._release_graphs()

    def give_up(self, reason: str) -> None:
        """Stop using graphs and warn why."""
        self._release_graphs()
        self._recorder = None
        message = f"training continues without a CUDA graph, launch by launch: {reason}"
        warnings.warn(UncapturedWarning(message), stacklevel=2)

    def _release_graphs(self) -> None:
        self._graphs.clear()
        self._kept.clear()
        self._same = None
        if self._recorder:
            self._recorder.release()


def _do_nothing() -> None:
    pass


def _repeat(work: Work, count: int) -> None:
    for _ in range(count):
        work()
