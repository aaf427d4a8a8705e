"""Access control of the live page's server: every request is checked here before any route.

A server on loopback is reachable from every page in the user's browser. A page of another site can send requests to it
(cross-site requests), or resolve its own name to this machine and so appear to be the same site (DNS rebinding). So the
Host header must be a name of this server, and an origin that the browser reports must be this server.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "gpuconv-live"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RefusedRequestError(Exception):
    """A refused request: the HTTP status, and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Guard:
    """An ASGI application that passes only allowed requests on to another application.

    host: the address that the server is bound to. token: every request must have it, the first one as ?token=, which
    sets a cookie, and later ones in that cookie; None on loopback. limits: for each path, the largest number of bytes
    in a body; other paths take no body.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, limits: dict[str, int]) -> None:
        self.app, self.host, self.token, self.limits = app, host, token, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            raise RuntimeError(f"the live page speaks HTTP, received {scope['type']}")
        cookie: list[str] = []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {**HEADERS, **({"set-cookie": cookie[0]} if cookie else {})}
                message["headers"] = [*message.get("headers", ()), *_encoded(own.items())]
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            _expect_once(scope["headers"], b"host", b"origin", b"content-length")
            self._expect_host(headers.get("host", ""))
            _expect_same_origin(headers)
            if given := self._expect_token(headers, scope["query_string"]):
                cookie.append(given)
            body = await self._bounded(scope, headers, receive) if scope["method"] not in ("GET", "HEAD") else None
        except RefusedRequestError as refused:
            text = str(refused).encode()
            start = {"type": "http.response.start", "status": refused.status}
            kind = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(text))}
            await send_with_headers(start | {"headers": _encoded(kind.items())})
            return await send({"type": "http.response.body", "body": text})
        return await self.app(scope, receive if body is None else _receive_again(body, receive), send_with_headers)

    def _expect_host(self, host: str) -> None:
        name = _name(host)
        known = {*LOOPBACK, self.host.lower()}
        if self.token is not None and (name == socket.gethostname().lower() or _is_address(name)):
            return  # this server is reachable under many names; the token keeps others out
        if name not in known:
            raise RefusedRequestError(421, f"this server is {self.host}, but the request is for {host[:100]!r}")

    def _expect_token(self, headers: dict[str, str], query: bytes) -> str | None:
        """The cookie to set if the token came in the address, else None. Raises RefusedRequestError if the server has a
        token and the request lacks it."""
        if self.token is None:
            return None
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            found = None
        if found is not None and _equal_secrets(found.value, self.token):
            return None
        given = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        if not _equal_secrets(given, self.token):
            raise RefusedRequestError(401, "this page needs the token of the address that `gpuconv live` printed")
        return f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    async def _bounded(self, scope: Scope, headers: dict[str, str], receive: Receive) -> bytes:
        """The complete body. Refuses a body as soon as it is known to exceed the limit of its path."""
        most = self.limits.get(scope["path"], 0)

        def expect_size(size: int) -> None:
            if size > most:
                raise RefusedRequestError(413, f"a request to {scope['path'][:100]} has at most {most:,} bytes")

        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal():
            raise RefusedRequestError(400, f"the content length must be a number, received {length[:50]!r}")
        body, more = bytearray(), True
        expect_size(int(length[:20]))
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedRequestError(400, "the request ended early")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            expect_size(len(body))
        return bytes(body)


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reachable only from this machine."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _expect_same_origin(headers: dict[str, str]) -> None:
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
        raise RefusedRequestError(403, f"a page of {origin[:100]!r} may not use this server")
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        raise RefusedRequestError(403, f"a {site[:30]} request may not use this server")


def _expect_once(headers: Iterable[tuple[bytes, bytes]], *names: bytes) -> None:
    given = [name for name, _ in headers]
    for name in names:
        if given.count(name) > 1:
            raise RefusedRequestError(400, f"the header {name.decode()} occurs twice")


def _name(host: str) -> str:
    """A Host header without its port, in lower case; an IPv6 address without brackets."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    name = name if port.isdecimal() else host
    return name.strip("[]").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal_secrets(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]


def _receive_again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
