"""Calls of a peer's services by name: `get_client`."""

from __future__ import annotations

import math
from typing import Any

from lattica.compat.arguments import received
from lattica.compat.results import RpcFuture, StreamIterator, translated
from lattica.compat.running import Running
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId


class RpcClient:
    """Calls a peer's services, `Class.method`, with one value."""

    def __init__(self, running: Running, peer_id: PeerId) -> None:
        self._running = running
        self.peer_id = peer_id

    def submit(self, method: str, payload: Any, result: type | None = None) -> RpcFuture:
        """Send a call, and return its future; `result` is the message that its bytes are."""
        service, _, name = method.rpartition(".")
        node = self._running.node

        async def run() -> Any:
            stub = node.rpc.stub(self.peer_id, service, timeout=math.inf)
            return received(await stub.call_method(name, _arguments(payload), {}), result)

        try:
            return RpcFuture(self._running.send(run))
        except LatticaError as error:
            raise translated(error) from error

    def stream(self, method: str, payload: Any) -> StreamIterator:
        """Begin a call whose result is streamed."""
        service, _, name = method.rpartition(".")
        try:
            stub = self._running.lattica.rpc.stub(self.peer_id, service, timeout=math.inf)
            return StreamIterator(getattr(stub, name).stream(*_arguments(payload)))
        except LatticaError as error:
            raise translated(error) from error

    def call(self, method: str, data: bytes | None = None) -> RpcFuture:
        """A unary call."""
        return self.submit(method, data)

    call_stream = call

    def call_stream_iter(self, method: str, data: bytes | None = None) -> StreamIterator:
        """A streaming call."""
        return self.stream(method, data)


def _arguments(payload: Any) -> tuple[Any, ...]:
    return () if payload is None else (payload,)
