"""The routes of the live page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gpuconv.live import request_parsing
from gpuconv.live.security import Guard
from gpuconv.live.session import Session
from gpuconv.text.plain_text import one_line

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FRAMES = ("picture", "examples", "map")  # binary; the event stream contains only their numbers
LIMITS = {"/command": 1 << 18, "/image": 1 << 25, "/drawing": 1 << 20}  # bytes of a body
PATIENCE = 30.0  # seconds that a request waits for the current step
SILENCE = 10.0  # a stream sends a keep-alive after this many seconds without a message


def application(session: Session, *, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """The ASGI application that shows a session. host, token: see `Guard`."""
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}

    async def file(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if name not in files:  # known names only: a path from a request is never opened
            return PlainTextResponse("not found", 404)
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix])

    async def events(request: Request) -> Response:
        return StreamingResponse(_events(session), media_type="text/event-stream")

    async def frame(request: Request) -> Response:
        name = request.path_params["name"]
        found = session.hub.get(name) if name in FRAMES else None
        if found is None:
            return PlainTextResponse("not found", 404)
        return Response(found[1], media_type="application/octet-stream")

    async def command(request: Request) -> Response:
        _expect_type(request, "application/json")
        name, arguments = request_parsing.read_command(await request.body())
        if name == "look" and "image" in arguments:
            raise ValueError("send the image to /image")
        return await _answer(session.ask(name, **arguments))

    async def image(request: Request) -> Response:
        _expect_type(request, "application/octet-stream")
        shape = session.segment.net.input_shape
        image, conversion = await asyncio.to_thread(request_parsing.read_image, await request.body(), shape)
        return await _answer(session.ask("look", image=image, title=f"your image ({conversion})"))

    async def drawing(request: Request) -> Response:
        _expect_type(request, "application/octet-stream")
        image = request_parsing.read_drawing(await request.body(), session.segment.net.input_shape)
        return await _answer(session.ask("look", image=image, title="your drawing"))

    routes = [
        Route("/", file),
        Route("/events", events),
        Route("/frame/{name}", frame),
        Route("/command", command, methods=["POST"]),
        Route("/image", image, methods=["POST"]),
        Route("/drawing", drawing, methods=["POST"]),
        Route("/{name}", file),
    ]
    refused: Any = dict.fromkeys((ValueError, TypeError, KeyError, RuntimeError, OSError, ImportError), _refused)
    app = Starlette(routes=routes, exception_handlers=refused)
    return Guard(app, host=host, token=token, limits=LIMITS)


async def _events(session: Session) -> AsyncIterator[bytes]:
    """Server-sent events: the newest message of each kind. A slow browser misses some."""
    seen = 0
    with session.hub.client() as news:
        session.ask("greet")
        while True:
            news.clear()
            for number, name, message in session.hub.since(seen):
                seen = number
                data = str(number).encode() if name in FRAMES else message
                yield b"event: %s\ndata: %s\n\n" % (name.encode(), data)
            try:
                await asyncio.wait_for(news.wait(), SILENCE)
            except TimeoutError:
                yield b": still here\n\n"


async def _answer(future: Future[object]) -> Response:
    try:
        found = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), PATIENCE)
    except TimeoutError:
        found = None  # the request will be served after the current, long step
    return Response(json.dumps({"done": found}), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    answer = {"error": one_line(error) or type(error).__name__, "layer": getattr(error, "layer", None)}
    return Response(json.dumps(answer), 400, media_type="application/json")


def _expect_type(request: Request, kind: str) -> None:
    """Check the content type; other sites cannot send these types without a CORS preflight."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != kind:
        raise ValueError(f"the content type must be {kind}, received {request.headers.get('content-type', '')[:100]!r}")
