"""The calling side of the data plane: streams to one peer, each used for one call after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from lattica.nat.base.errors import (
    LatticaError,
    RemoteProtocolError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.rpc.data_plane.data_stream import DataStream, Message
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import (
    DeadlineExceededError,
    InternalError,
    RpcError,
    StatusCode,
    UnavailableError,
    UnimplementedError,
    error_of,
)
from lattica.rpc.protocol.client_core import error_from
from lattica.rpc.protocol.messages import DATA, Kind, encode_fetch

if TYPE_CHECKING:
    from lattica.rpc.client.client import Client
    from lattica.rpc.client.peer import Peer

_MAX_IDLE: Final = 32
"""Streams that are kept for the next call. Their windows have grown, and they cost no round
trip.
"""


class DataLink:
    """Calls to one peer over the data plane."""

    def __init__(self, client: Client, peer: Peer) -> None:
        self._client = client
        self._peer = peer
        self._idle: list[DataStream] = []
        self._places = trio.Semaphore(client.config.max_data_streams)
        self.calls = 0
        """Calls under way."""

    async def take(self) -> DataStream:
        """A stream for a call: :meth:`give_back` it, or :meth:`drop` it. Raises RpcError."""
        await self._places.acquire()
        if self._client.tasks.closed:
            self._places.release()
            raise UnavailableError("this node's RPC has ended", may_have_run=False)
        client = self._client
        try:
            while self._idle:
                data = self._idle.pop()
                if not (data.stream.is_gone or data.stream.is_superseded):
                    client.shared.prepare(data.stream)
                    self.calls += 1
                    return data
                _close(data)
            stream = await client.host.open_stream(self._peer.id, DATA)
        except BaseException as error:
            self._places.release()
            if isinstance(error, UnsupportedProtocolError):
                raise UnimplementedError(str(error), may_have_run=False) from error
            if isinstance(error, (LatticaError, TimeoutError)):
                text = f"{self._peer.id} cannot be reached: {error}"
                raise UnavailableError(text, may_have_run=False) from error
            raise
        self.calls += 1
        client.shared.prepare(stream)
        return DataStream(
            stream,
            client.decoder,
            client.budget,
            client.config,
            client.traffic,
            client.shared,
            client.heavy,
        )

    def give_back(self, data: DataStream) -> None:
        """The call is over, and both sides know it."""
        data.release()
        self.calls -= 1
        self._places.release()
        if len(self._idle) < _MAX_IDLE and not data.stream.is_superseded:
            self._idle.append(data)
        else:
            _close(data)

    def drop(self, data: DataStream, *, code: StatusCode = StatusCode.CANCELLED) -> None:
        """The call is given up, or the stream is of no more use."""
        data.stream.reset("the call was given up", code=code)
        data.end()
        self.calls -= 1
        self._places.release()

    def path_changed(self) -> None:
        """Streams that nobody uses need not stay on a worse path."""
        kept = []
        for data in self._idle:
            if data.stream.is_superseded:
                _close(data)
            else:
                kept.append(data)
        self._idle = kept

    def close(self) -> None:
        """End the streams that nobody uses."""
        for data in self._idle:
            _close(data)
        self._idle.clear()

    # --- calls with one answer ---

    async def unary(
        self,
        body: Encoded,
        deadline: float,
        out: Sequence[memoryview],
        compression: str | None = None,
    ) -> Any:
        """Make a unary call; raises RpcError."""
        return await self._ask(body, None, deadline, out, compression)

    async def fetch(
        self, session: bytes, call: int, deadline: float, out: Sequence[memoryview]
    ) -> Any:
        """Fetch the large result of a call of the control plane; raises RpcError."""
        return await self._ask(None, encode_fetch(session, call), deadline, out)

    async def _ask(
        self,
        body: Encoded | None,
        raw: bytes | None,
        deadline: float,
        out: Sequence[memoryview],
        compression: str | None = None,
    ) -> Any:
        data = None
        sent = False
        with trio.CancelScope(deadline=deadline) as scope:
            data = await self.take()
            data.compression = compression
            over = False
            try:
                try:
                    if body is not None:
                        await data.send(Kind.CALL, body)
                    elif raw is not None:
                        await data.send_raw(raw)
                    sent = True
                except StreamResetError:
                    pass  # it may have answered before it had read everything
                message = await data.receive(out)
                over = message is not None and message.ends_call and not message.is_last
                return result_of(message, may_have_run=sent)
            except LatticaError as error:
                if isinstance(error, RpcError):
                    raise
                raise lost(error, may_have_run=sent) from error
            finally:
                if over:
                    self.give_back(data)
                else:
                    late = scope.cancel_called or trio.current_time() >= deadline
                    code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
                    self.drop(data, code=code)
        raise DeadlineExceededError("no answer in time", may_have_run=sent)


def _close(data: DataStream) -> None:
    data.stream.close()
    data.end()


def result_of(message: Message | None, *, may_have_run: bool = True) -> Any:
    """The value of the last message of a call; raises its error."""
    if message is None:
        raise lost(RemoteProtocolError("the stream ended before the call did"), may_have_run=True)
    if message.kind is not Kind.RESULT:
        raise error_in(message, "a result")
    if message.refusal is not None:
        raise InternalError(f"the result: {message.refusal}")
    return message.value


def error_in(message: Message, expected: str) -> RpcError:
    """The error that a message tells, or is."""
    if message.kind is not Kind.ERROR:
        return lost(RemoteProtocolError(f"RPC: {message.kind.name} in place of {expected}"))
    value = message.value
    if type(value) is not list or len(value) != 3:
        return lost(RemoteProtocolError("RPC: an error has three parts"))
    try:
        return error_from(*value)
    except RemoteProtocolError as breach:
        return lost(breach)


def lost(error: LatticaError, *, may_have_run: bool = True) -> RpcError:
    """The error of a call whose stream failed."""
    if isinstance(error, StreamResetError) and error.code:
        return error_of(error.code, "the server gave the call up", may_have_run=may_have_run)
    if isinstance(error, UnsupportedProtocolError):
        return UnimplementedError(str(error), may_have_run=False)
    return UnavailableError(f"the call was lost: {error}", may_have_run=may_have_run)
