"""Calls of a peer's services by name: `get_client`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lattica.compat.calls.results import RpcFuture, StreamIterator, translated
from lattica.facades.rpc.blocking import BlockingItems
from lattica.facades.rpc.core import Items
from lattica.facades.rpc.unary import UnaryCall
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.rpc.client.stubs import unary_of

if TYPE_CHECKING:
    from lattica.compat.running import Running
    from lattica.rpc.client.begun import BegunCall, Done
    from lattica.rpc.client.stubs import NamedStub


@dataclass(frozen=True, slots=True)
class Sent:
    """What a call sends, for each kind of peer, and what its result is."""

    payload: Any
    """For nodes of ours."""
    encode: Callable[[], bytes]
    """Makes what nodes of the original get. Raises TypeError for what they cannot."""
    result: type | None = None
    """The message that bytes of the result are."""
    decode: Callable[[bytes], Any] = bytes
    """Reads what a node of the original has answered."""
    is_streamed: bool = False
    """Whether the original has it sent over a stream."""


class RpcClient:
    """Calls a peer's services, `Class.method`, with one value."""

    def __init__(self, running: Running, peer_id: PeerId) -> None:
        self._running = running
        self.peer_id = peer_id
        self._stubs: dict[str, NamedStub] = {}
        """By service; in the trio thread only."""

    def submit(self, method: str, sent: Sent) -> RpcFuture:
        """Send a call, and return its future.

        Raises:
            TypeError: an argument cannot be sent.
        """
        original = self._running.original
        known = sent.encode() if self.peer_id in original.peers else None
        service, _, name = method.rpartition(".")
        arguments = _arguments(sent.payload)

        async def run() -> Any:
            if known is not None or await original.is_spoken_by(self.peer_id):
                data = known if known is not None else await trio.to_thread.run_sync(sent.encode)
                call = original.client.streamed if sent.is_streamed else original.client.unary
                answer = await call(self.peer_id, method, data)
                return await trio.to_thread.run_sync(sent.decode, answer)
            return await self._stub(service).call_method(name, arguments, {})

        def begin(done: Done) -> BegunCall | None:
            if original.is_known_of(self.peer_id) is not False:
                return None
            return unary_of(self._stub(service), name).begin(arguments, {}, done)

        call = UnaryCall(self._running.bridge, begin, run)
        try:
            self._running.send(call)
            return RpcFuture(call, sent.result)
        except LatticaError as error:
            raise translated(error) from error

    def _stub(self, service: str) -> NamedStub:
        stub = self._stubs.get(service)
        if stub is None:
            rpc = self._running.node.rpc
            stub = self._stubs[service] = rpc.stub(self.peer_id, service, timeout=math.inf)
        return stub

    def stream(self, method: str, sent: Sent) -> StreamIterator:
        """Begin a call whose result is streamed."""
        running, original = self._running, self._running.original
        service, _, name = method.rpartition(".")
        try:
            if self.peer_id in original.peers or running.bridge.call(
                original.is_spoken_by, self.peer_id
            ):
                begin = partial(original.client.items, self.peer_id, method, sent.encode())
                items = running.bridge.call_plain(lambda: Items(begin()))
                return StreamIterator(BlockingItems(running.bridge, items))
            stub = running.lattica.rpc.stub(self.peer_id, service, timeout=math.inf)
            return StreamIterator(getattr(stub, name).stream(*_arguments(sent.payload)))
        except LatticaError as error:
            raise translated(error) from error

    def call(self, method: str, data: bytes | None = None) -> RpcFuture:
        """A unary call."""
        return self.submit(method, _raw(data))

    def call_stream(self, method: str, data: bytes | None = None) -> RpcFuture:
        """A unary call, which the original has go over a stream."""
        return self.submit(method, _raw(data, is_streamed=True))

    def call_stream_iter(self, method: str, data: bytes | None = None) -> StreamIterator:
        """A streaming call."""
        return self.stream(method, _raw(data))


def _raw(data: bytes | None, *, is_streamed: bool = False) -> Sent:
    return Sent(data, lambda: data or b"", is_streamed=is_streamed)


def _arguments(payload: Any) -> tuple[Any, ...]:
    return () if payload is None else (payload,)
