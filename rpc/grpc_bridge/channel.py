"""The side that calls: a channel whose other end is a peer's server."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import trio

from lattica.nat.base.peer_log import peer_log
from lattica.rpc.grpc_bridge.serving import PORT
from lattica.rpc.grpc_bridge.socket_folder import SocketFolder
from lattica.rpc.ports.events import ConnectionRefused, PortEvent
from lattica.rpc.ports.ports import RemotePeer

logger = logging.getLogger(__name__)

Options = Sequence[tuple[str, Any]]


def grpc_channel(
    node: Any,
    peer: RemotePeer,
    *,
    port: str = PORT,
    key: str | None = None,
    options: Options | None = None,
    aio: bool | None = None,
    **channel_options: Any,
) -> Any:
    """A channel to the gRPC server of a peer, for generated stubs as they are.

    ::

        with grpc_channel(lattica, peer) as channel:                    # Lattica
        async with await grpc_channel(lattica, peer) as channel:        # AsyncLattica
        channel = await grpc_channel(node, peer)                        # Node, under trio

    It connects when it is first used, and again whenever the peer was away: a call fails with
    `UNAVAILABLE` meanwhile, or with `wait_for_ready=True` waits; so it does where this peer may not
    connect. Which of them it is, a warning in the log says. Closing it ends its calls; it does
    not outlive the node.

    Args:
        node: a :class:`lattica.Node`, `Lattica` or `AsyncLattica`.
        aio: whether the channel is one of grpc.aio; by default only with `AsyncLattica`. Under
            trio a blocking one is used in threads.
        peer: its ID, or addresses with `/p2p/ID`.
        port: what the other side has called it.
        key: what it has given out, if not this peer's ID is what it knows.
        options, channel_options: as `grpc.insecure_channel` takes them. The mesh encrypts.

    Returns the channel, for `Lattica`; for the others an awaitable of it.
    """
    folder = SocketFolder()
    target = f"unix:{folder.socket}"
    try:
        ports = getattr(node, "ports", node)
        made = ports.forward(peer, port, local=target, key=key, on_event=_tell)
    except BaseException:
        folder.remove()
        raise

    def channel(close: Callable[[], object], aio: bool) -> Any:
        def end() -> None:
            close()
            folder.remove()

        options_ = [("grpc.use_local_subchannel_pool", 1), *(options or ())]
        if aio:
            inner = grpc.aio.insecure_channel(target, options=options_, **channel_options)
            return _AioChannel(inner, end)
        return _Channel(grpc.insecure_channel(target, options=options_, **channel_options), end)

    if not inspect.isawaitable(made):
        return channel(made.close, bool(aio))

    async def later() -> Any:
        try:
            forward = await made
        except BaseException:
            folder.remove()
            raise
        if node is ports:
            return channel(forward.close, aio is None or aio)
        token = trio.lowlevel.current_trio_token()

        def close() -> None:  # in whatever thread the channel is closed
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(forward.close)

        return channel(close, bool(aio))

    return later()


def _tell(event: PortEvent) -> None:
    """gRPC says of all that keeps a channel from its peer no more than UNAVAILABLE."""
    if isinstance(event, ConnectionRefused):
        peer_log.log(logger, logging.WARNING, event.peer_id, "no gRPC connection: %s", event.reason)


class _Calls:
    """The calls of a channel, which are those of another."""

    def __init__(self, inner: Any, end: Callable[[], None]) -> None:
        self._inner = inner
        self._end = end

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.unary_unary(*args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.stream_stream(*args, **kwargs)


class _Channel(_Calls, grpc.Channel):  # type: ignore[misc]
    """A blocking channel, and something to do when it is closed."""

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> Any:
        return self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> Any:
        return self._inner.unsubscribe(callback)

    def close(self) -> None:
        self._inner.close()
        self._end()

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AioChannel(_Calls, grpc.aio.Channel):  # type: ignore[misc]
    """A channel for asyncio, and something to do when it is closed."""

    def get_state(self, try_to_connect: bool = False) -> Any:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)
        self._end()

    async def __aenter__(self) -> _AioChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
