"""The server of the application: its socket, limits and shutdown."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

import uvicorn

from gpuconv.live.app import application
from gpuconv.live.session import Session
from gpuconv.training.interrupts import Interrupts


@contextlib.contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. Raises OSError that names the address if that fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError for invalid host labels
        raise OSError(errno.EADDRNOTAVAIL, getattr(error, "strerror", "is not a host name"), host) from None
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)  # from now on, browsers wait instead of being refused
        except OSError as error:
            code = error.errno or 0
            part = "host" if code in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) else "port"
            raise OSError(code, f"{os.strerror(code)}; choose another {part}", f"{host}:{port}") from None
        yield listening


class _Server(uvicorn.Server):
    """A server that stops once a signal is recorded. uvicorn's own handler would raise the signal again before the
    session is saved."""

    def __init__(self, config: uvicorn.Config, interrupts: Interrupts) -> None:
        super().__init__(config)
        self._interrupts = interrupts

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._interrupts.requested is not None


def run(session: Session, listening: socket.socket, interrupts: Interrupts, *, host: str, token: str | None) -> None:
    """Serve until a signal is recorded."""
    config = uvicorn.Config(
        application(session, host=host, token=token),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=64,
        timeout_graceful_shutdown=1,
    )
    _Server(config, interrupts).run(sockets=[listening])
