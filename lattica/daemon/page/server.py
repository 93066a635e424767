"""Serves the page: its files, the node's status as JSON, and both status and log as they change."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

import trio

from lattica.daemon.api.status import node_status, plain
from lattica.daemon.page.requests import (
    COOKIE,
    MAX_HEAD,
    Access,
    RefusedError,
    Request,
    parse_request,
)
from lattica.nat.base.errors import ListenError

if TYPE_CHECKING:
    from lattica.daemon.node.member import Member

logger = logging.getLogger(__name__)

MAX_BROWSERS = 32
"""Connections at a time; more are closed at once."""
_HEAD_TIMEOUT = 10.0
_LOOK = 1.0
"""Seconds between two looks at the node, for browsers."""
_WRITE_TIMEOUT = 30.0
"""Seconds after which a browser that takes nothing is given up."""
_LOG_LINES = 200
_FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}


@asynccontextmanager
async def serving_page(
    member: Member, host: str, port: int, token: bytes | None
) -> AsyncIterator[str]:
    """Serve the page in this block; gives its address.

    Raises:
        ListenError: the port cannot be had.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ListenError(f"no page at {host}:{port}: {error.strerror or error}") from None
    bound = listeners[0].socket.getsockname()[1]
    server = _Page(member, Access(bound, None if token is None else token.hex()))
    shown = f"[{host}]" if ":" in host else host
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield f"http://{shown}:{bound}/"
        nursery.cancel_scope.cancel()


@cache
def _asset(name: str) -> bytes:
    return (resources.files("lattica.daemon.page") / "assets" / name).read_bytes()


class _Page:
    def __init__(self, member: Member, access: Access) -> None:
        self._member = member
        self._access = access
        self._live = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one connection."""
        if self._live >= MAX_BROWSERS:
            await stream.aclose()
            return
        self._live += 1
        try:
            async with stream:
                await self._answer(stream)
        except trio.BrokenResourceError:
            pass
        except Exception:  # costs the browser its answer, not the node
            logger.exception("internal error in the page")
        finally:
            self._live -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(_HEAD_TIMEOUT) as scope:
            try:
                request = await _receive(stream)
                if request is None:
                    return
                keeps = self._access.check(request)
            except RefusedError as refused:
                text = f"{refused.status} {refused.reason}\n".encode()
                await _send(stream, refused.status, refused.reason, "text/plain", text)
                return
            if keeps:
                # The address is in the history, and in what is copied.
                cookie = f"{COOKIE}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
                more = {"Location": "/", "Set-Cookie": cookie}
                await _send(stream, 303, "See Other", "text/plain", b"", more)
                return
            if request.path != "/events" or request.method != "GET":
                await self._plain(stream, request)
                return
        if not scope.cancelled_caught:
            await self._events(stream)

    async def _plain(self, stream: trio.SocketStream, request: Request) -> None:
        if request.path in _FILES:
            name, kind = _FILES[request.path]
            body = _asset(name)
        elif request.path == "/status":
            kind, body = "application/json", json.dumps(self._status()).encode()
        else:
            await _send(stream, 404, "Not Found", "text/plain", b"404 Not Found\n")
            return
        await _send(stream, 200, "OK", kind, body, is_head=request.method == "HEAD")

    def _status(self) -> dict[str, object]:
        return plain(node_status(self._member))

    async def _events(self, stream: trio.SocketStream) -> None:
        """Server-sent events (HTML, section 9.2): `status` once a second, `log` for each line."""
        head = _head(200, "OK", "text/event-stream", {})
        await stream.send_all(head)
        logs = self._member.logs
        position, lines = logs.position, logs.last(_LOG_LINES)
        while True:
            parts = [
                _event("log", {"time": each.time, "level": each.level, "message": each.message})
                for each in lines
            ]
            parts.append(_event("status", self._status()))
            with trio.move_on_after(_WRITE_TIMEOUT) as scope:
                await stream.send_all(b"".join(parts))
            if scope.cancelled_caught:
                return
            await trio.sleep(_LOOK)
            position, lines = logs.since(position)


def _event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


async def _receive(stream: trio.SocketStream) -> Request | None:
    """The request; None where the browser has gone away before."""
    head = bytearray()
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(4096)
        if not data:
            return None
        head += data
        if len(head) > MAX_HEAD:
            raise RefusedError(431, "Request Header Fields Too Large")
    return parse_request(bytes(head[: head.index(b"\r\n\r\n")]))


def _head(status: int, reason: str, kind: str, more: Mapping[str, str]) -> bytes:
    headers = {"Content-Type": kind, **_HEADERS, **more}
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


async def _send(
    stream: trio.SocketStream,
    status: int,
    reason: str,
    kind: str,
    body: bytes,
    more: Mapping[str, str] | None = None,
    *,
    is_head: bool = False,
) -> None:
    head = _head(status, reason, kind, {"Content-Length": str(len(body)), **(more or {})})
    await stream.send_all(head if is_head else head + body)
