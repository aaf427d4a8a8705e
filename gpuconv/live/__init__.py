"""The live page: watch and control the training of a net in a browser (docs/live.md)."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable

from gpuconv.arguments import integer
from gpuconv.live.security import is_loopback
from gpuconv.live.segment import DataSplits, Sets
from gpuconv.live.session import Session

__all__ = ["DataSplits", "Session", "Sets", "serve"]

EVERYWHERE = ("0.0.0.0", "::")  # addresses to listen on, but not to connect to
ENDS = "finishing the step, then saving; a second signal ends the process at once"
NEEDS = "the live page needs starlette and uvicorn: python -m pip install 'gpuconv[live]'"


def expect_installed() -> None:
    """Raise ImportError if the extra is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(NEEDS) from error


def serve(
    session: Session | Callable[[], Session],
    *,
    host: str = "127.0.0.1",
    port: int = 8600,
    ready: Callable[[str], object] = print,
) -> None:
    """Show a session until Ctrl-C, SIGTERM or SIGHUP, then finish its step and save.

    Args:
        session: A session, or a function that makes one. The function is called only after the address is bound, so
            that a failure to bind leaves no run folder.
        host: The address to listen on. If it is not a loopback address, other machines can connect; then the page's
            address contains a token that every request needs.
        port: The port; 0 takes a free one.
        ready: Called with the page's address.

    Raises:
        TypeError, ValueError: `session`, `host` or `port` is not accepted.
        ImportError: starlette or uvicorn is missing.
        OSError: The server cannot listen on the address, for example because the port is taken.
    """
    if not isinstance(session, Session) and not callable(session):
        raise TypeError(f"session must be a Session, or a function that makes one, received {type(session).__name__}")
    if not isinstance(host, str):
        raise TypeError(f"host must be text, such as '127.0.0.1', received {host!r}")
    port = integer("port", port, 0, 65535)
    expect_installed()
    from gpuconv.live.server import listening_socket, run
    from gpuconv.training.interrupts import Interrupts

    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    with listening_socket(host, port) as listening:
        actual = listening.getsockname()[1]
        named = socket.gethostname() if host in EVERYWHERE else host
        shown = f"[{named}]" if ":" in named else named
        session = session if isinstance(session, Session) else session()
        with contextlib.suppress(KeyboardInterrupt), Interrupts(ENDS) as interrupts:
            session.start()
            try:
                ready(f"http://{shown}:{actual}/" + (f"?token={token}" if token else ""))
                run(session, listening, interrupts, host=host, token=token)
            finally:
                session.close()
