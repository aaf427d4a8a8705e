"""Queues of work, one for each stream, which run as late as possible or at once, and captures of that work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.standin.errors import CUDARuntimeError

PATIENCE = 5.0  # seconds to wait for another thread

Work = Callable[[], None]
Wait = tuple["Queue", int]  # a stream, and how many of its first pieces of work must have run
Piece = tuple[list[Wait], Work]  # what a piece of work waits for, and the work


class Capture:
    """The work of a capture.

    origin: the stream on which it began. branches: the streams that joined it by waiting for an event of the capture.
    invalidated_by: why the capture is invalid, if it is. ended: whether `end_capture` was called.
    """

    def __init__(self, origin: Queue) -> None:
        self.origin = origin
        self.branches: list[Queue] = []
        self.invalidated_by: str | None = None
        self.ended = False
        self._work: dict[Queue, list[Piece]] = {}
        self._calls: list[Work] = []

    def end(self, queue: Queue) -> int:
        """The number of captured pieces of a stream's work."""
        return len(self._work.get(queue, ()))

    def append(self, queue: Queue, waits: list[Wait], work: Work) -> None:
        self._work.setdefault(queue, []).append((waits, work))
        self._calls.append(work)

    def invalidate(self, error: str) -> CUDARuntimeError:
        """The exception of the call that makes the capture invalid."""
        self.invalidated_by = error
        return CUDARuntimeError(error)

    def expect_valid(self) -> None:
        if self.invalidated_by:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureInvalidated, by {self.invalidated_by}")

    def order(self, schedule: str) -> list[Work]:
        """The order in which the graph runs. "early": the order of the calls. "late": the work of a branch runs only
        when other work waits for it. Raises CUDARuntimeError if the origin does not wait, directly or by way of other
        branches, for the whole work of each branch, its waits included."""
        ordered: list[Work] = []
        done: Counter[Queue] = Counter()

        def run(queue: Queue, end: int) -> None:
            while done[queue] < end:
                waits, work = self._work[queue][done[queue]]
                done[queue] += 1
                for other, needed in waits:
                    run(other, needed)
                ordered.append(work)

        run(self.origin, self.end(self.origin))
        if any(done[queue] < self.end(queue) for queue in self._work):
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined")
        return self._calls if schedule == "early" else ordered


class Queue:
    """The work of one stream. machine: the `Machine` of the stream. kind: "legacy", "blocking" or "non-blocking"."""

    def __init__(self, machine, device: int, kind: str) -> None:
        self.machine, self.device, self.kind = machine, device, kind
        self.captured: Capture | None = None  # the capture that records the stream's work, if there is one
        self._work: list[Piece] = []
        self._done = 0
        self.busy_until = 0.0  # when its queued work ends, by the machine's clock
        self.held = False  # whether its work waits for another GPU
        machine.queues.append(self)

    @property
    def end(self) -> int:
        """The number of pieces of work queued, or captured, so far."""
        return len(self._work) if self.captured is None else self.captured.end(self)

    def push(self, work: Work, seconds: float = 0.0) -> None:
        """Queue work that takes the given time, or record it during a capture."""
        with self.machine.lock:
            if self.captured is not None:
                self.captured.expect_valid()
                self.captured.append(self, [], work)
                return
            waits = self._implicit_waits()
            self.busy_until = max(
                self.machine.time.perf_counter(), self.busy_until, *(queue.busy_until for queue, _ in waits)
            )
            self.busy_until += seconds
            self._append(waits, work)

    def record(self) -> tuple[Wait, Capture | None]:
        """What a stream waits for that waits for an event recorded now, and the capture that records the event."""
        with self.machine.lock:
            if self.captured is None:
                self.push(lambda: None)
            else:
                self.captured.expect_valid()
            return (self, self.end), self.captured

    def wait(self, other: Queue, end: int, capture: Capture | None = None) -> None:
        """Work queued later runs after the first `end` pieces of work of another stream. capture: the capture to which
        these pieces belong."""
        with self.machine.lock:
            if capture is not None:
                self._wait_captured(other, end, capture)
                return
            if self.captured is not None:
                raise self.captured.invalidate("cudaErrorStreamCaptureIsolation")
            self.busy_until = max(self.busy_until, other.busy_until)
            self._append([(other, end)], lambda: None)

    def _wait_captured(self, other: Queue, end: int, capture: Capture) -> None:
        """A stream that waits for an event of a capture becomes a branch of the capture. Before the capture ends, its
        origin must wait for the branch."""
        if capture.ended:
            raise CUDARuntimeError("cudaErrorCapturedEvent")
        if self.captured is None:
            self.captured = capture
            capture.branches.append(self)
        if self.captured is not capture:
            self.captured.invalidate("cudaErrorStreamCaptureMerge")
            raise capture.invalidate("cudaErrorStreamCaptureMerge")
        capture.append(self, [(other, end)], lambda: None)

    def _append(self, waits: list[Wait], work: Work) -> None:
        self._work.append((waits, work))
        if self.machine.schedule == "early":
            self.run(self.end)

    def _implicit_waits(self) -> list[Wait]:
        others = [queue for queue in self.machine.queues if queue.device == self.device and queue is not self]
        if self.kind == "legacy":
            blocking = [queue for queue in others if queue.kind == "blocking"]
            for queue in blocking:
                if queue.captured is not None:
                    raise queue.captured.invalidate("cudaErrorStreamCaptureImplicit")
            return [(queue, queue.end) for queue in blocking]
        return [(queue, queue.end) for queue in others if queue.kind == "legacy" and self.kind == "blocking"]

    def synchronize(self) -> None:
        """Run all work; refused during a capture, which it invalidates."""
        with self.machine.lock:
            if self.captured is not None:
                raise self.captured.invalidate("cudaErrorStreamCaptureUnsupported")
            self.run(self.end)
        self.machine.sleep_until(self.busy_until)

    def run(self, end: int) -> None:
        """Run the first `end` pieces of work, each after the work that it waits for."""
        with self.machine.lock:
            while True:
                self._wait_while_held()
                if self._done >= end:
                    return
                number = self._done
                waits, work = self._work[number]
                for queue, needed in waits:
                    queue.run(needed)
                if self._done != number:  # another thread ran this piece meanwhile
                    continue
                self._work[self._done] = ([], lambda: None)
                self._done += 1
                before, self.machine.thread.runs = getattr(self.machine.thread, "runs", None), self
                try:
                    work()
                finally:
                    self.machine.thread.runs = before

    def _wait_while_held(self) -> None:
        """Wait until no piece of this stream's work, in any thread, waits for another GPU."""
        assert self.machine.changed.wait_for(lambda: not self.held, PATIENCE), "a stream's work does not end"

    def hangs(self, end: int) -> bool:
        """Whether the first `end` pieces of work wait for a GPU that hangs: the queue's, or one that NCCL waits for."""
        hung = self.machine.hung
        remaining = [work for _, work in self._work[self._done : end]]
        waits = (getattr(work, "waits_for", set)() & hung for work in remaining)
        return bool(remaining) and (self.device in hung or any(waits))

    def run_one(self) -> bool:
        """Run the next piece of work, unless it waits for another stream. Returns whether a piece was run."""
        with self.machine.lock:
            if self._done == self.end or self.held:
                return False
            waits, _ = self._work[self._done]
            if any(queue.held or queue._done < needed for queue, needed in waits):
                return False
            self.run(self._done + 1)
            return True

    def begin_capture(self) -> None:
        if self.kind == "legacy":
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.captured = Capture(self)

    def end_capture(self) -> list[Work]:
        captured, self.captured = self.captured, None
        assert captured is not None
        captured.ended = True
        for branch in captured.branches:
            branch.captured = None
        captured.expect_valid()
        return captured.order(self.machine.schedule)
