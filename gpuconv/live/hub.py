"""Passes the newest message of each kind from the training thread to browsers. A slow browser misses some messages."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class Hub:
    """The newest message of each name. `put` may be called from any thread and never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._count = 0
        self._clients: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def clients(self) -> int:
        return len(self._clients)

    def put(self, name: str, message: bytes) -> None:
        with self._lock:
            self._count += 1
            self._newest[name] = self._count, message
            clients = [*self._clients]
        for loop, event in clients:
            with contextlib.suppress(RuntimeError):  # the browser's event loop has ended
                loop.call_soon_threadsafe(event.set)

    def get(self, name: str) -> tuple[int, bytes] | None:
        """The number and the newest message of this name; None if there is none yet."""
        with self._lock:
            return self._newest.get(name)

    def since(self, number: int) -> list[tuple[int, str, bytes]]:
        """The newest messages that came after that number, oldest first."""
        with self._lock:
            return sorted((at, name, message) for name, (at, message) in self._newest.items() if at > number)

    @contextlib.contextmanager
    def client(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set whenever there is something new."""
        mine = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._clients.add(mine)
        try:
            yield mine[1]
        finally:
            with self._lock:
                self._clients.discard(mine)
