"""Serves handlers to nodes of the original, by its own protocols."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import trio

from lattica.compat.calls.arguments import invoke
from lattica.compat.calls.decorators import CallKind, kinds_of
from lattica.compat.calls.service import chunks
from lattica.compat.wire.messages import (
    MAX_BODY,
    MAX_UNARY,
    STREAM,
    UNARY,
    Cancel,
    Close,
    Failure,
    Frame,
    Message,
    Part,
    Request,
    Response,
    decode_message,
    encode_message,
)
from lattica.compat.wire.payloads import decode_arguments, encode_value
from lattica.compat.wire.streams import (
    PATIENCE,
    Held,
    receive_frame,
    receive_to_end,
    send_body,
    send_frame,
)
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.foreign_code import described, settle
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host
from lattica.rpc.data_plane.budget import ReceiveBudget
from lattica.rpc.errors import ResourceExhaustedError
from lattica.rpc.server.streams import ThreadedIterator
from lattica.rpc.server.threads import HandlerThreads, NetworkThreads
from lattica.rpc.server.workers import Workers

logger = logging.getLogger(__name__)

OWNER: Final = "RPC of the original"
_Bytes = bytes | bytearray | memoryview
_MAX_STREAMS: Final = 1024
_MAX_CALLS: Final = 1024
"""Calls of one stream that are under way."""


class OriginalServer:
    """Serves handler objects under their classes' names. For the trio thread only.

    Handlers run in threads, of which there are `threads` at most; what comes for them is held in
    the memory of `budget`.
    """

    def __init__(self, host: Host, tasks: Tasks, budget: ReceiveBudget, threads: int) -> None:
        self._host = host
        self._tasks = tasks
        self._budget = budget
        self._threads = HandlerThreads(Workers(tasks), threads)
        self._handlers: dict[str, object] = {}
        self._open: set[Stream] = set()
        host.handle(
            UNARY, self._serve_unary, owner=OWNER, cancel_when_gone=True, limit=_MAX_STREAMS
        )
        host.handle(
            STREAM, self._serve_stream, owner=OWNER, cancel_when_gone=True, limit=_MAX_STREAMS
        )

    def register(self, handler: object) -> None:
        """Serve a handler; the last of a name counts."""
        self._handlers[type(handler).__name__] = handler

    def close(self) -> None:
        """Serve no more; what is under way ends."""
        for protocol in (UNARY, STREAM):
            self._host.unhandle(protocol, owner=OWNER)
        for stream in self._open:
            stream.reset("the node stops")

    def _threads_for(self, stream: Stream) -> NetworkThreads:
        return self._threads.of(stream.connection.source.network)

    # --- unary calls ---

    async def _serve_unary(self, stream: Stream) -> None:
        try:
            with Held(self._budget, stream.peer_id) as held:
                request = decode_message(await receive_to_end(stream, MAX_UNARY, held))
                if not isinstance(request, Request):
                    raise RemoteProtocolError(f"{OWNER}: a call is no {type(request).__name__}")
                answer: Message
                try:
                    handler, name = self._find(request.method)
                    run = partial(_call, handler, name, request.data)
                    answer = Response(request.id, await self._threads_for(stream).run(run))
                except BaseException as error:  # of the handler, whose own may be no Exception
                    answer = self._failure(stream, request, error)
                await stream.send_all(encode_message(answer))
        except (ResourceExhaustedError, trio.TooSlowError) as error:
            stream.reset(str(error))

    def _find(self, method: str) -> tuple[object, str]:
        """The handler of a method, and the method's name. Raises LatticaError."""
        service, dot, name = method.partition(".")
        if not dot or "." in name:
            raise LatticaError("Invalid method format")
        handler = self._handlers.get(service)
        if handler is None:
            raise LatticaError(f"Service {service} not found")
        if name not in kinds_of(type(handler)):
            raise LatticaError(f"Method {name} not found in {service}")
        return handler, name

    def _failure(self, stream: Stream, request: Request, error: BaseException) -> Failure:
        """What the caller is told. Raises what passes: a cancellation, or a Ctrl-C."""
        failures: list[Failure] = []

        def tell(own: BaseException) -> None:
            if isinstance(own, LatticaError):
                text = str(own)
            else:
                peer_log.log(
                    logger,
                    logging.WARNING,
                    stream.peer_id,
                    "a handler failed method=%s",
                    request.method,
                    exc_info=own,
                )
                text = described(own)
            failures.append(Failure(request.id, text))

        settle(error, tell)
        return failures[0]

    # --- streams ---

    async def _serve_stream(self, stream: Stream) -> None:
        """Frames of any number of calls, until the peer has no more and all are done."""
        served = _Served(stream)
        self._open.add(stream)
        try:
            while True:
                with Held(self._budget, stream.peer_id) as held:
                    frame = await receive_frame(stream, held)
                    if frame is None or isinstance(frame, Close):
                        break
                    await self._take(served, frame)
            while served.calls:
                await served.changed.wait()
        except (ResourceExhaustedError, trio.TooSlowError) as error:
            stream.reset(str(error))
        finally:
            self._open.discard(stream)
            for call in [*served.calls.values()]:
                call.give_up()

    async def _take(self, served: _Served, frame: Frame) -> None:
        call = served.calls.get(frame.id)
        if isinstance(frame, Request):
            if call is not None:
                raise RemoteProtocolError(f"{OWNER}: two calls have one ID")
            if len(served.calls) >= _MAX_CALLS:
                await served.send(Failure(frame.id, f"more than {_MAX_CALLS} calls at a time"))
                return
            held = Held(self._budget, served.stream.peer_id)
            served.calls[frame.id] = _Call(Request(frame.id, frame.method), held)
        elif call is None:
            return  # over by now
        elif isinstance(frame, Part) and not call.begun:
            if len(call.body) + len(frame.data) > MAX_BODY:
                raise RemoteProtocolError(f"{OWNER}: arguments of more than {MAX_BODY} bytes")
            call.held.take(len(frame.data))
            call.body += frame.data
            if frame.is_end:
                call.begun = True
                self._tasks.start_soon(self._run, served, call)
        elif isinstance(frame, (Cancel, Failure)):
            call.give_up()
            if not call.begun:
                served.end(call)

    async def _run(self, served: _Served, call: _Call) -> None:
        request = call.request
        try:
            try:
                handler, name = self._find(request.method)
                if kinds_of(type(handler))[name] is CallKind.STREAM_ITER:
                    make = partial(_items, handler, name, call.body)
                    await self._send_items(served, call, make)
                else:
                    run = partial(_call, handler, name, call.body)
                    result: bytes | None = None
                    with call.step():
                        result = await self._threads_for(served.stream).run(run)
                    if result:
                        await served.send_body(request.id, result)
            except BaseException as error:  # of the handler, whose own may be no Exception
                await served.send(self._failure(served.stream, request, error))
            await served.send(Close(request.id))
        except (LatticaError, trio.TooSlowError) as error:
            logger.debug("a call ended with its stream: %s", error)
            served.stream.reset("the answer was not taken")
        finally:
            served.end(call)

    async def _send_items(
        self, served: _Served, call: _Call, make: Callable[[], Iterator[bytes]]
    ) -> None:
        items = ThreadedIterator(make, self._threads_for(served.stream), self._tasks)
        try:
            while True:
                item: bytes | None = None
                with call.step():
                    item = await anext(items, None)
                if item is None:
                    return
                await served.send(Part(call.request.id, item))
        finally:
            await items.aclose()


class _Call:
    """A call that a stream has brought."""

    def __init__(self, request: Request, held: Held) -> None:
        self.request = request
        self.held = held
        self.body = bytearray()
        self.begun = False
        self._scope = trio.CancelScope()
        self._given_up = False

    def step(self) -> trio.CancelScope:
        """For what is waited for next: ended when the call is given up."""
        self._scope = trio.CancelScope()
        if self._given_up:
            self._scope.cancel()
        return self._scope

    def give_up(self) -> None:
        self._given_up = True
        self._scope.cancel()


class _Served:
    """A stream of calls. Frames of several of them do not mix."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.calls: dict[str, _Call] = {}
        self.changed = trio.Event()
        self._turn = trio.Lock()

    async def send(self, frame: Frame) -> None:
        """Raises TooSlowError when the peer takes nothing for a while, and what a stream does."""
        async with self._turn:
            with trio.fail_after(PATIENCE):
                await send_frame(self.stream, frame)

    async def send_body(self, call: str, body: bytes) -> None:
        async with self._turn:
            with trio.fail_after(PATIENCE + len(body) / 1e6):
                await send_body(self.stream, call, body)

    def end(self, call: _Call) -> None:
        call.held.release()
        self.calls.pop(call.request.id, None)
        self.changed.set()
        self.changed = trio.Event()


def _call(handler: object, name: str, data: _Bytes) -> bytes:
    """In a thread: run a method, and return its result as it travels."""
    method = getattr(handler, name)
    return encode_value(invoke(method, decode_arguments(method, bytes(data))))


def _items(handler: object, name: str, data: _Bytes) -> Iterator[bytes]:
    method = getattr(handler, name)
    return chunks(invoke(method, decode_arguments(method, bytes(data))))
