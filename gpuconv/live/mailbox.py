"""A queue of requests from any thread to the thread that answers them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from gpuconv.types import Record

ENDED = "the session has ended and answers no requests"


class Mailbox:
    """The queue. names: the known requests."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._queue: queue.SimpleQueue[tuple[str, Record, Future[object]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between `ask` and `close`
        self._closed = False

    def ask(self, name: str, arguments: Record) -> Future[object]:
        """A future with the answer's result or exception. Raises ValueError for an unknown request, and
        RuntimeError after `close`."""
        if name not in self.names:
            raise ValueError(f"unknown request {name[:50]!r}; the known ones are {', '.join(self.names)}")
        future: Future[object] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(ENDED)
            self._queue.put((name, arguments, future))
        return future

    def close(self) -> None:
        """Refuse further requests, and let those that are pending fail."""
        with self._lock:
            self._closed = True
        while True:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return
            if request is not None and request[2].set_running_or_notify_cancel():
                request[2].set_exception(RuntimeError(ENDED))

    def wake(self) -> None:
        """End the call of `answer` that is waiting, or else the next one."""
        self._queue.put(None)

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()

    def answer(
        self, do: Callable[[str, Record], object], *, until: Callable[[], bool] = lambda: False, wait: bool = False
    ) -> None:
        """Answer the pending requests until `until()` is true; the others stay. wait: wait for at least one."""
        while not until() and (wait or not self._queue.empty()):
            request = self._queue.get()
            wait = False
            if request is None:
                return
            name, arguments, future = request
            if not future.set_running_or_notify_cancel():
                continue  # the caller cancelled it
            try:
                future.set_result(do(name, arguments))
            except Exception as error:
                future.set_exception(error)
