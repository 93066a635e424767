"""The serving side of the data plane: one call after the other on each stream."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.mux.stream import Stream
from lattica.rpc.data_plane.data_stream import DataStream, Message
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import (
    DataLossError,
    RpcError,
    StatusCode,
    UnavailableError,
    error_of,
)
from lattica.rpc.protocol.messages import (
    CallHead,
    Kind,
    decode_call,
    decode_fetch,
    encode_failure,
    head_of_call,
)
from lattica.rpc.server.contexts import in_context
from lattica.rpc.server.methods import ServedMethod
from lattica.rpc.server.streams import BlockingRequests, RequestStream, ThreadedIterator
from lattica.rpc.services.context import CallContext

if TYPE_CHECKING:
    from lattica.rpc.server.server import Server
    from lattica.rpc.telemetry.tracing import ServedSpan, Tracing

_NIL = Encoded(b"\xc0")


class DataPlane:
    """Serves the streams of the data plane. A caller that resets a stream cancels what runs on
    it.

    Strangers may have thousands of calls under way, and the garbage collector stops the node while
    it looks through all that there is: a call keeps few objects, and one scope of trio's.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    async def serve(self, stream: Stream) -> None:
        """Handle a stream that a peer has opened, until it ends."""
        server = self._server
        data = DataStream(
            stream,
            server.decoder,
            server.budget,
            server.config,
            server.traffic,
            server.shared,
            server.heavy,
        )
        try:
            with trio.CancelScope() as scope:
                stream.cancel_when_gone(scope)
                while await self._serve_next(data, scope):
                    pass
        finally:
            data.end()

    async def _serve_next(self, data: DataStream, scope: trio.CancelScope) -> bool:
        """Serve what comes next; whether more may follow on the stream, on which the scope is."""
        try:
            message = await data.receive(admit=partial(self._admit, data))
        except RpcError as error:  # over budget, or not let in
            if not data.stream.is_dead:
                await self._fail(data, error, is_last=True)
            return False
        if message is None:
            return False
        if message.kind is Kind.FETCH:
            return await self._fetch(data, message.value)
        if message.kind is not Kind.CALL:
            raise RemoteProtocolError(f"RPC: {message.kind.name} where a call was expected")
        head = decode_call(message.value)
        message.value = None  # what is not in the head need not stay as long as the call
        server, peer = self._server, data.stream.peer_id
        method = server.methods.get(head.method)
        network = data.source.network
        refusal = self._refusal(head, method, data)
        if refusal is not None or method is None:
            # Its requests may be on their way: nothing else can be told from them.
            is_last = head.kind & 1 == 1
            await self._fail(data, refusal or server.unknown(head.method), is_last=is_last)
            return not is_last
        server.data_calls[peer] += 1
        server.count_call(network, 1)
        try:
            if server.tracing is None:
                work = self._call(data, head, method, message, scope)
            else:
                work = self._traced(data, head, method, message, scope, server.tracing)
            # The next call on the stream is to see nothing of what this one's handler sets.
            return await in_context(copy_context(), work)
        finally:
            server.count_call(network, -1)
            server.data_calls[peer] -= 1
            if not server.data_calls[peer]:
                del server.data_calls[peer]
            server.call_ended()

    def _refusal(
        self, head: CallHead, method: ServedMethod | None, data: DataStream
    ) -> RpcError | None:
        """Why a call is not taken, whoever makes it."""
        server = self._server
        if method is None:
            return server.unknown(head.method)
        if server.going_away:
            return UnavailableError("the server is going away", may_have_run=False)
        if method.definition.kind != head.kind:
            return server.wrong_kind(method)
        return server.no_room(server.data_calls[data.stream.peer_id], data.source.network)

    def _admit(self, data: DataStream, skeleton: bytes) -> None:
        """Before anything is made of a large call's arguments: may it be made at all?

        Raises RemoteProtocolError, RpcError.
        """
        server = self._server
        head = decode_call(server.decoder.decode_partly(head_of_call(skeleton))[0])
        method = server.methods.get(head.method)
        error = self._refusal(head, method, data)
        if error is not None or method is None:
            raise error or server.unknown(head.method)
        if not method.needs_context:
            return
        deadline = math.inf
        if head.timeout_ms is not None:
            deadline = trio.current_time() + head.timeout_ms / 1000
        try:
            method.check_access(self._context(data, head, method, deadline))
        except BaseException as reason:  # of the hook, whose own may be no Exception
            failed = method.failure(
                reason, data.stream.peer_id, send_traceback=server.config.send_tracebacks
            )
            method.counters.active += 1
            method.counters.ended(failed.code, 0.0)
            raise error_of(failed.code, failed.message, may_have_run=False) from reason

    def _context(
        self, data: DataStream, head: CallHead, method: ServedMethod, deadline: float
    ) -> CallContext:
        stream = data.stream
        return self._server.context(
            stream.peer_id,
            method,
            stream.connection.path,
            deadline,
            head.metadata,
            lambda: stream.is_gone,
        )

    async def _traced(
        self,
        data: DataStream,
        head: CallHead,
        method: ServedMethod,
        message: Message,
        scope: trio.CancelScope,
        tracing: Tracing,
    ) -> bool:
        name = method.definition.full_name
        with tracing.served(name, data.stream.peer_id, head.metadata) as span:
            return await self._call(data, head, method, message, scope, span)

    async def _call(
        self,
        data: DataStream,
        head: CallHead,
        method: ServedMethod,
        message: Message,
        scope: trio.CancelScope,
        span: ServedSpan | None = None,
    ) -> bool:
        server, definition = self._server, method.definition
        stream = data.stream
        data.compression = head.compression
        start = time.perf_counter()
        deadline = math.inf
        if head.timeout_ms is not None:
            deadline = trio.current_time() + head.timeout_ms / 1000
        requests = None
        if definition.kind.streams_request:
            requests = RequestStream(data, definition.check_item)
        code: int = StatusCode.CANCELLED
        method.counters.active += 1
        server.deadlines.add(scope, deadline)
        try:
            try:
                await self._run(data, head, method, message, requests, deadline)
                code = StatusCode.OK
            except BaseException as error:  # of the handler, whose own may be no Exception
                if stream.is_gone or (requests is not None and requests.is_broken):
                    raise
                failed = method.failure(
                    error, stream.peer_id, send_traceback=server.config.send_tracebacks
                )
                code = failed.code
                is_last = requests is not None and not requests.ended
                await data.send_raw(
                    encode_failure(code, failed.message, failed.facts, is_last=is_last)
                )
        except BaseException:
            if scope.cancel_called and not stream.is_gone:
                code = StatusCode.DEADLINE_EXCEEDED
                # A part of a message may have been sent.
                stream.reset(code=code)
            raise
        finally:
            server.deadlines.forget(scope)
            method.counters.ended(code, time.perf_counter() - start)
            if span is not None:
                span.code = code
        return requests is None or requests.ended

    async def _run(
        self,
        data: DataStream,
        head: CallHead,
        method: ServedMethod,
        message: Message,
        requests: RequestStream | None,
        deadline: float,
    ) -> None:
        server, definition = self._server, method.definition
        network = data.source.network
        args, keywords = method.arguments(head.args, head.keywords, message.refusal)
        if method.needs_context:
            context = self._context(data, head, method, deadline)
            if not message.is_admitted:
                method.check_access(context)
            if definition.context_parameter is not None:
                keywords[definition.context_parameter] = context
        if requests is not None and definition.stream_parameter is not None:
            of_thread = not definition.request_stream_is_async
            keywords[definition.stream_parameter] = (
                BlockingRequests(requests) if of_thread else requests
            )
        if not definition.kind.streams_response:
            result = await method.run(args, keywords, network)
            await data.send(
                Kind.RESULT,
                await server.encoded(result, method, network),
                is_last=requests is not None and not requests.ended,
            )
            return
        iterator: AsyncIterator[Any]
        if definition.is_async:
            made = method.function(*args, **keywords)
            iterator = aiter(await made if hasattr(made, "__await__") else made)
        else:
            iterator = ThreadedIterator(
                partial(method.function, *args, **keywords),
                method.threads.of(network),
                server.tasks,
            )
        try:
            async for item in iterator:
                body = await server.encoded(method.checked(item), method, network)
                await data.send(Kind.ITEM, body)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        await data.send(Kind.END, _NIL, is_last=requests is not None and not requests.ended)

    async def _fetch(self, data: DataStream, value: Any) -> bool:
        name, call = decode_fetch(value)
        session = self._server.control.sessions.get((data.stream.peer_id, name))
        large = None if session is None else session.large_result(call)
        if session is None or large is None:
            await self._fail(data, DataLossError("the result is not kept any more"))
            return True
        session.begin_fetch(large)
        try:
            await data.send(Kind.RESULT, large.body)
        finally:
            session.end_fetch(large)
        session.fetched(call)
        return True

    async def _fail(self, data: DataStream, error: RpcError, *, is_last: bool = False) -> None:
        facts = {"not_run": not error.may_have_run, "retry_after": error.retry_after}
        await data.send_raw(encode_failure(error.code, error.message, facts, is_last=is_last))
