"""A small HTTP server for those who watch: `GET` and `HEAD` of a few paths, by h11.

Bounded: so many connections at a time, one request each, with a deadline for all of it. Needs h11,
of the extra `metrics`.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import h11
import trio

from lattica.daemon.metrics.config import split_endpoint
from lattica.nat.base.errors import ListenError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
DEADLINE = 10.0
"""Seconds that a connection may take, from its beginning to its end."""
_MAX_HEAD = 16_384
_RECEIVE = 16_384
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = TEXT


@dataclass(frozen=True, slots=True)
class Route:
    """What answers for a path; it must not wait."""

    answer: Callable[[], Page]
    token: str = ""
    """Needed as a bearer token; empty: none is."""


class WatchServer:
    """Serves `routes`, by their paths."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._open = 0

    async def serve(self, endpoint: str, *, task_status: trio.TaskStatus[int]) -> None:
        """Listen on `HOST:PORT` until cancelled; tells the port.

        Raises:
            ListenError: it cannot be had.
        """
        host, port = split_endpoint(endpoint)
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            reason = error.strerror or error
            raise ListenError(f"metrics.listen: cannot listen on {endpoint}: {reason}") from None
        bound: int = listeners[0].socket.getsockname()[1]
        logger.info("metrics and health are served on http://%s:%d", host, bound)
        async with trio.open_nursery() as nursery:
            task_status.started(bound)
            await trio.serve_listeners(self._serve_one, listeners, handler_nursery=nursery)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        if self._open >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            with trio.move_on_after(DEADLINE):
                async with stream:
                    await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client has gone
        finally:
            self._open -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(_RECEIVE)))
        except h11.RemoteProtocolError as error:
            await _send(stream, http, Page(b"", HTTPStatus(error.error_status_hint)))
            return
        if isinstance(event, h11.Request):
            page = self._page(event)
            await _send(stream, http, page, with_body=event.method != b"HEAD")

    def _page(self, request: h11.Request) -> Page:
        path = request.target.partition(b"?")[0].decode("latin-1")
        route = self._routes.get(path)
        if route is None:
            pages = ", ".join(self._routes)
            text = f"there is no such page; there are {pages}\n"
            return Page(text.encode(), HTTPStatus.NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            return Page(b"only GET\n", HTTPStatus.METHOD_NOT_ALLOWED)
        if route.token and not hmac.compare_digest(
            dict(request.headers).get(b"authorization", b""), b"Bearer " + route.token.encode()
        ):
            return Page(b"a bearer token is needed\n", HTTPStatus.UNAUTHORIZED)
        try:
            return route.answer()
        except Exception:
            logger.exception("no answer for %s", path)
            return Page(b"an internal error\n", HTTPStatus.INTERNAL_SERVER_ERROR)


async def _send(
    stream: trio.SocketStream, http: h11.Connection, page: Page, *, with_body: bool = True
) -> None:
    headers = [
        ("Content-Type", page.kind),
        ("Content-Length", str(len(page.body))),
        ("Connection", "close"),
        ("Cache-Control", "no-store"),
    ]
    if page.status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    head = h11.Response(
        status_code=page.status, reason=page.status.phrase.encode(), headers=headers
    )
    data = http.send(head) or b""
    if with_body:
        data += http.send(h11.Data(data=page.body)) or b""
    await stream.send_all(data)
