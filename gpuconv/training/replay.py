"""Steps as CUDA graphs: captured after a first one that ran launch by launch, then replayed, several at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any

from gpuconv import backends
from gpuconv.notices import Notice

TOGETHER = 8  # steps that one graph holds, where that many may pass before the host must see one

Work = Callable[[], None]


class UncapturedWarning(Notice):
    """Training runs launch by launch, although it was to be captured; the message says why."""


class Replay:
    """Runs a step's device work, captured where `captured` says so.

    The same work is captured that runs uncaptured. Graphs and the memory they work on live as long as this object, or
    until what they took by value or by address is another (`same`).
    """

    def __init__(self, device: str, captured: bool) -> None:
        self._recorder = backends.recorder(device) if captured else None
        self._same: Any = None
        self._graphs: dict[Hashable, dict[int, Work]] = {}

    @property
    def together(self) -> int:
        """How many steps may be run at once."""
        return TOGETHER if self._recorder else 1

    def run(self, work: Work, steps: int, shape: Hashable, same: Any) -> None:
        """Do `work`, the device's part of one step, `steps` times.

        shape: what the work depends on that returns, such as the size of the last batch. same: what must be equal for a
        graph to do what the work would do.
        """
        if self._recorder and same != self._same:
            self._forget()
            self._same = same
        if self._recorder and shape not in self._graphs:
            self._recorder.prepare(work)
            self._graphs[shape] = {}
            steps -= 1
        while steps:
            count = TOGETHER if steps >= TOGETHER else 1
            replay = self._graph(work, count, shape)
            if replay is None:
                break
            replay()
            steps -= count
        for _ in range(steps):
            work()

    def _graph(self, work: Work, count: int, shape: Hashable) -> Work | None:
        """The graph of `count` steps, captured if need be; None where there is none to be had."""
        if self._recorder is None:
            return None
        graphs = self._graphs[shape]
        if count not in graphs:
            try:
                graphs[count] = self._recorder.capture(lambda: _repeat(work, count))
            except Exception as error:  # whatever it was: nothing ran, and the work itself was seen to run
                self.give_up(f"{type(error).__name__}: {error}")
                return None
        return graphs[count]

    def close(self) -> None:
        """Give the graphs and their memory back."""
        self._forget()

    def give_up(self, reason: str) -> None:
        """From here on no graphs."""
        self._forget()
        self._recorder = None
        told = f"training goes on without a CUDA graph, launch by launch: {reason}"
        warnings.warn(UncapturedWarning(told), stacklevel=2)

    def _forget(self) -> None:
        self._graphs.clear()
        if self._recorder:
            self._recorder.release()


def _repeat(work: Work, count: int) -> None:
    for _ in range(count):
        work()
