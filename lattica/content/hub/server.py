"""The HTTP side of the door: one connection of a hub's client after the other, by h11."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import h11
import trio

from lattica.content.errors import TicketError
from lattica.content.hub.answers import etag_of, info_answer, tree_answer
from lattica.content.hub.library import (
    Library,
    Revision,
    UnknownRepositoryError,
    UnknownRevisionError,
)
from lattica.content.hub.routes import (
    FileRoute,
    InfoRoute,
    RangeNotSatisfiableError,
    Route,
    TreeRoute,
    find_range,
    find_route,
)
from lattica.nat.base.errors import LatticaError, RemoteProtocolError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
_MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""
_MAX_BODY = 1024 * 1024
"""Bytes of a request's body, which is thrown away."""
_IDLE = 75.0
"""Seconds for which a client may keep a connection on which it asks for nothing."""
_RECEIVE: Final = 64 * 1024

Headers = list[tuple[str, str]]


class _Refused(Exception):
    """A request that is answered with an error; `code` is the hub's word for it."""

    def __init__(
        self, status: HTTPStatus, message: str, code: str = "", headers: Headers | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or []


class HubServer:
    """Answers a hub's clients out of a library.

    Args:
        is_local: only clients of this machine can connect. Then a request has to name this machine,
            so that no page in a browser can read here by a name of its own that leads to it.
    """

    def __init__(self, library: Library, *, is_local: bool = True) -> None:
        self._library = library
        self._is_local = is_local
        self._connections = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one client until it goes; for :func:`trio.serve_listeners`."""
        if self._connections >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            async with stream:
                await _Connection(stream, self._answer).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("a client has gone: %s", error)
        finally:
            self._connections -= 1

    async def _answer(self, request: h11.Request, reply: _Connection) -> None:
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        method, target = request.method.decode("ascii"), request.target.decode("latin-1")
        if self._is_local and not _names_this_machine(headers.get("host", "")):
            raise _Refused(HTTPStatus.FORBIDDEN, "this door is for clients of its machine")
        if method not in ("GET", "HEAD"):
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are known here")
        try:
            route = find_route(target)
        except (TicketError, ValueError) as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error), "RepoNotFound") from None
        if route is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "no route of the hub's that is known here")
        revision = await self._find(route)
        description = revision.description
        commit = ("X-Repo-Commit", description.commit)
        match route:
            case InfoRoute():
                info = info_answer(route.ref, description, with_sizes=route.with_sizes)
                await reply.send_json(info, [commit])
            case TreeRoute():
                tree = tree_answer(description, route.path, recursive=route.recursive)
                if tree is None:
                    raise _no_entry(route.path, commit)
                await reply.send_json(tree, [commit])
            case FileRoute():
                await self._send_file(route, revision, headers, reply)

    async def _find(self, route: Route) -> Revision:
        try:
            return await self._library.find(route.ref)
        except UnknownRepositoryError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error), "RepoNotFound") from None
        except UnknownRevisionError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error), "RevisionNotFound") from None

    async def _send_file(
        self, route: FileRoute, revision: Revision, asked: dict[str, str], reply: _Connection
    ) -> None:
        commit = ("X-Repo-Commit", revision.description.commit)
        file = next((f for f in revision.description.files if f.path == route.path), None)
        if file is None:
            raise _no_entry(route.path, commit)
        etag = f'"{etag_of(file)}"'
        headers = [
            commit,
            ("ETag", etag),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream"),
            ("X-Linked-Size", str(file.size)),
            ("X-Linked-Etag", etag),
        ]
        if etag in (part.strip() for part in asked.get("if-none-match", "").split(",")):
            await reply.send_head(HTTPStatus.NOT_MODIFIED, headers)
            return
        start, end, status = 0, file.size, HTTPStatus.OK
        if asked.get("if-range", etag) == etag and (header := asked.get("range")) is not None:
            try:
                found = find_range(header, file.size)
            except RangeNotSatisfiableError as error:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                more = [commit, ("Content-Range", f"bytes */{file.size}")]
                raise _Refused(status, str(error), headers=more) from None
            if found is not None:
                start, end = found
                status = HTTPStatus.PARTIAL_CONTENT
                headers.append(("Content-Range", f"bytes {start}-{end - 1}/{file.size}"))
        headers.append(("Content-Length", str(end - start)))
        parts = self._library.read(revision, file, start, end)
        await reply.send_parts(status, headers, parts)


def _no_entry(path: str, commit: tuple[str, str]) -> _Refused:
    message = f"there is no {path!r:.200}"
    return _Refused(HTTPStatus.NOT_FOUND, message, "EntryNotFound", [commit])


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class _Connection:
    """One client's connection: requests one after the other, and how they are answered."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        answer: Callable[[h11.Request, _Connection], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._is_head = False

    async def run(self) -> None:
        """Until the client goes, or breaks the protocol."""
        http = self._http
        while True:
            try:
                request = await self._next_request()
                if request is None:
                    return
                await self._answer_one(request)
            except h11.RemoteProtocolError as error:
                logger.debug("a client that does not speak HTTP: %s", error)
                if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    refused = _Refused(HTTPStatus(error.error_status_hint), str(error))
                    await self._refuse(refused)
                return
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _next_request(self) -> h11.Request | None:
        """None: the client has gone, or is silent for too long."""
        request: h11.Request | None = None
        body = 0
        with trio.move_on_after(_IDLE):
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVE)))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += len(event.data)
                    if body > _MAX_BODY:
                        return None
                elif isinstance(event, h11.EndOfMessage):
                    return request
                else:
                    return None
        return None

    async def _answer_one(self, request: h11.Request) -> None:
        self._is_head = request.method == b"HEAD"
        target = request.target.decode("latin-1")
        try:
            await self._answer(request, self)
        except _Refused as refused:
            logger.info("%s: %s", target, refused)
            await self._refuse(refused)
        except (LatticaError, OSError) as error:
            logger.warning("%s: %s", target, error)
            # Once a body has begun there is no other way to say so than to break off.
            if self._http.our_state is h11.SEND_RESPONSE:
                is_fault = isinstance(error, RemoteProtocolError)
                status = HTTPStatus.BAD_GATEWAY if is_fault else HTTPStatus.GATEWAY_TIMEOUT
                await self._refuse(_Refused(status, str(error)))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)

    async def _refuse(self, refused: _Refused) -> None:
        message = " ".join(str(refused).split())
        shown = message.encode("ascii", "replace").decode()
        headers = [*refused.headers, ("X-Error-Message", shown)]
        if refused.code:
            headers.append(("X-Error-Code", refused.code))
        await self.send_json({"error": message}, headers, refused.status)

    async def send_json(
        self, value: object, headers: Headers, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        """Answer with a value."""
        body = json.dumps(value).encode()
        kind = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await self.send_head(status, [*headers, *kind], None if self._is_head else body)

    async def send_head(
        self, status: HTTPStatus, headers: Headers, body: bytes | None = None
    ) -> None:
        """Answer, with a body that is at hand, or none."""
        await self._send(self._response(status, headers))
        if body:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    @staticmethod
    def _response(status: HTTPStatus, headers: Headers) -> h11.Response:
        return h11.Response(status_code=status, reason=status.phrase.encode(), headers=[*headers])

    async def send_parts(
        self, status: HTTPStatus, headers: Headers, parts: AsyncGenerator[memoryview, None]
    ) -> None:
        """Answer with parts as they come; the head goes with the first one, so that an error
        before is an answer, too."""
        if self._is_head:
            await self.send_head(status, headers)
            return
        begun = False
        async with aclosing(parts):
            async for part in parts:
                if not begun:
                    await self._send(self._response(status, headers))
                    begun = True
                # A view each: what is sent is not copied.
                for data in self._http.send_with_data_passthrough(h11.Data(data=part)) or ():  # type: ignore[arg-type]
                    await self._stream.send_all(data)
        if not begun:
            await self._send(self._response(status, headers))
        await self._send(h11.EndOfMessage())
