"""Lattica for asyncio: :class:`AsyncLattica`, a :class:`~lattica.node.Node` on another loop.

The node runs in a daemon thread of its own, with trio; see `lattica.facades.threads.bridge` for
what holds for every call. Everything here may be awaited from any number of asyncio loops and
threads at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self

from lattica.facades import facade
from lattica.facades.closable import OnlyAsyncWith
from lattica.facades.facade import NodeFacade, import_here
from lattica.facades.ports import ExposedPort, ForwardedPort
from lattica.facades.streams.aio import AsyncEvents, AsyncHandler, AsyncStream, HandlerTasks
from lattica.facades.threads.handoff import StreamCore
from lattica.nat.base.checks import check_timeout
from lattica.nat.swarm.serving.handler_kind import check_async_handler

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.content import ByteRange, FetchOptions, FetchResult, Ticket
    from lattica.content.events import FetchCallback, HashCallback
    from lattica.content.manifest.cid import Cid
    from lattica.content.tensors.state_dict import Loaded
    from lattica.content.weights.options import WeightOptions
    from lattica.facades.dht import AsyncDht
    from lattica.facades.rpc.aio import AsyncRpc
    from lattica.facades.store.aio import AsyncStore
    from lattica.facades.topics.aio import AsyncTopic
    from lattica.facades.topics.discovery import AsyncDiscovery
    from lattica.facades.weights.aio import AsyncWeightPublisher, AsyncWeightSubscriber
    from lattica.nat.base.keys.identity import Identity, PeerId
    from lattica.nat.base.net.multiaddr import Multiaddr
    from lattica.nat.swarm.status import PathStatus, PeerStatus
    from lattica.rpc.ports.events import PortCallback
    from lattica.rpc.ports.forwarder import Forward
    from lattica.rpc.ports.ports import Anyone, RemotePeer

logger = logging.getLogger(__name__)


class AsyncLattica(NodeFacade, OnlyAsyncWith):
    """A node of the mesh, for asyncio.

    ::

        async with AsyncLattica() as lattica:
            peer = await lattica.connect("/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…")
            async with await lattica.open_stream(peer, "/echo/1") as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                print(b"".join([chunk async for chunk in stream]))

    Without `async with`, call `start` and `aclose`. A node that nobody closes runs on until
    the main thread ends; it is then closed within a bounded time.

    `config` and `identity` are those of :class:`~lattica.node.Node`. Calls take a `timeout` in
    seconds, as those of `lattica.facades.blocking.Lattica` do, and raise the same errors.
    Cancelling a task that awaits a call cancels the call, and waits for that to have happened.
    """

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        identity: Identity | None = None,
        **settings: Never,
    ) -> None:
        super().__init__(config, identity=identity, **settings)
        self._handlers = HandlerTasks(self._bridge)

    # Life

    async def start(self) -> Self:
        """Start the node; returns when it listens. Nothing happens when it is started already.

        Raises:
            ListenError: no address can be listened on.
            ConfigError: a setting cannot be used.
            IdentityError: the key cannot be read or made.
            LocalProtocolError: it has been closed: it runs once.
        """
        self._opened = await self._bridge.astart()
        return self

    async def aclose(self) -> None:
        """Stop the node and wait for it; any number of times, from any loop.

        Calls in flight raise `LocalProtocolError`, and streams that are still open are reset.
        What was sent on those that have been closed is still delivered if it can be within
        `Timeouts.shutdown` seconds. Handlers on the calling loop are cancelled, and waited for
        as long; those on other loops are cancelled.
        """
        await self._bridge.aclose()
        await self._handlers.wait(self._grace())

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # Calls

    @property
    def rpc(self) -> AsyncRpc:
        """Calls to other peers, and what this node serves to them (`docs/rpc.md`)."""
        from lattica.facades.rpc.aio import AsyncRpc

        import_here(*facade.RPC)
        return AsyncRpc(self._bridge, self._node)

    # Topics

    async def topic(self, name: str) -> AsyncTopic:
        """A topic, to publish and to subscribe to; see `Node.topic`."""
        from lattica.facades.topics.aio import AsyncTopic

        import_here(*facade.TOPICS)
        topic = await self._bridge.acall_plain(self._node.topic, name)
        return AsyncTopic(self._bridge, topic)

    # Weights

    def publish_weights(
        self, name: str, options: WeightOptions | None = None
    ) -> AsyncWeightPublisher:
        """A channel on which this node publishes versions of weights, in an `async with` block
        (`docs/guides/weights.md`).
        """
        from lattica.facades.weights.aio import AsyncWeightPublisher

        return AsyncWeightPublisher(self._bridge, self._node, name, options)

    def follow_weights(
        self, channel: str, options: WeightOptions | None = None
    ) -> AsyncWeightSubscriber:
        """The versions of a channel `PEER/NAME`, the newest each time, in an `async with` block
        (`docs/guides/weights.md`).
        """
        from lattica.facades.weights.aio import AsyncWeightSubscriber

        return AsyncWeightSubscriber(self._bridge, self._node, channel, options)

    @property
    def documents(self) -> AsyncStore:
        """Documents that are replicated with every peer that has them open (`docs/crdt.md`).

        `Node.store`, under a name that the original Lattica's API does not have.
        """
        from lattica.facades.store.aio import AsyncStore

        import_here(*facade.DOCUMENTS)
        return AsyncStore(self._bridge, self._node)

    @property
    def discovery(self) -> AsyncDiscovery:
        """Peers by topic, from all there is to ask (`docs/discovery.md`)."""
        from lattica.facades.topics.discovery import AsyncDiscovery

        import_here(*facade.DISCOVERY)
        return AsyncDiscovery(self._bridge, self._node)

    @property
    def dht(self) -> AsyncDht:
        """Values, providers and peers, found without a centre (`docs/discovery.md`)."""
        from lattica.facades.dht import AsyncDht

        import_here(*facade.DHT)
        return AsyncDht(self._bridge, self._node)

    # Peers

    async def addrs(self) -> tuple[Multiaddr, ...]:
        """Where this node can be dialed, each address with its peer ID."""
        node = self._node
        return await self._bridge.acall_plain(lambda: node.addrs)

    async def announcing(self) -> tuple[str, ...]:
        """What may still add to `addrs`, in words; see `Node.announcing`."""
        node = self._node
        return await self._bridge.acall_plain(lambda: node.announcing)

    async def connect(
        self,
        target: str | Multiaddr | PeerId | Sequence[str | Multiaddr],
        *,
        timeout: float | None = None,
    ) -> PeerId:
        """Make sure there is a connection to a peer, and return its ID; see `Node.connect`."""
        connect = partial(self._node.connect, timeout=check_timeout(timeout))
        return await self._bridge.acall(connect, target)

    async def wait_connected(self, peer: PeerId | str, *, timeout: float | None = None) -> None:
        """Wait until the peer is connected, whichever side dials."""
        wait = partial(self._node.wait_connected, timeout=check_timeout(timeout))
        await self._bridge.acall(wait, peer)

    async def path(self, peer: PeerId | str) -> PathStatus | None:
        """How a peer is reached now, and why not in a better way; None if it is not connected."""
        return await self._bridge.acall_plain(self._node.path, peer)

    async def wait_announced(self, *, timeout: float | None = 10.0) -> None:
        """Wait until `addrs` has what there is to be found out soon; see `Node.wait_announced`.

        Returns after `timeout` seconds in any case.
        """
        await self._bridge.acall(self._node.wait_announced, check_timeout(timeout))

    async def wait_reachable(self, *, timeout: float | None = None) -> None:
        """Wait until others can reach this node by a relay; see `Node.wait_reachable`."""
        await self._bridge.acall(self._node.wait_reachable, check_timeout(timeout))

    async def is_connected(self, peer: PeerId | str) -> bool:
        """Whether there is a connection to the peer now."""
        return await self._bridge.acall_plain(self._node.is_connected, peer)

    async def peers(self) -> tuple[PeerStatus, ...]:
        """The connected peers."""
        return await self._bridge.acall_plain(self._node.peers)

    async def add_address(self, peer: PeerId | str, addr: str | Multiaddr) -> None:
        """Note where a peer can be dialed."""
        await self._bridge.acall_plain(self._node.add_address, peer, addr)

    async def disconnect(self, peer: PeerId | str, *, timeout: float | None = None) -> None:
        """Close all connections to the peer."""
        await self._bridge.acall(self._node.disconnect, peer, timeout=timeout)

    def events(self) -> AsyncEvents:
        """Subscribe to what happens to the node from now on. Close it, or use `with`."""
        return AsyncEvents(self._bridge, self._node)

    # Streams

    async def open_stream(
        self,
        peer: PeerId | str,
        protocol: str | Sequence[str],
        *,
        timeout: float | None = None,
    ) -> AsyncStream:
        """Open a stream to the peer, connecting first if need be; see `Node.open_stream`.

        Of several protocols the peer's first in this order is taken.
        """
        open_stream = partial(self._node.open_stream, timeout=check_timeout(timeout))
        stream = await self._bridge.acall(open_stream, peer, protocol, give_back=self._discard)
        return AsyncStream(StreamCore(self._bridge, stream))

    async def handle(
        self,
        protocol: str,
        handler: AsyncHandler,
        *,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        """Have `await handler(stream)` run, on the calling loop, for every stream of `protocol`.

        Each runs as a task of its own. When it returns the stream is closed, when it raises the
        stream is reset and the error logged. A plain function, which would hold the loop up, is
        refused with LocalProtocolError, or, if that shows only when it returns, logged as an error.
        The tasks are cancelled when the node stops. For
        `replace`, `cancel_when_gone` and `limit` see `Node.handle`.
        """
        loop = asyncio.get_running_loop()
        handle = partial(
            self._node.handle, replace=replace, cancel_when_gone=cancel_when_gone, limit=limit
        )
        check_async_handler(handler)  # before it is wrapped
        await self._bridge.acall_plain(
            handle,
            protocol,
            lambda stream: self._handlers.serve(handler, loop, stream),
        )

    async def unhandle(self, protocol: str) -> None:
        """Accept no more streams of `protocol`; those that are being handled go on."""
        await self._bridge.acall_plain(self._node.unhandle, protocol)

    # Ports

    async def expose(
        self,
        target: int | str,
        *,
        name: str | None = None,
        to: Collection[PeerId | str] | Anyone | None = None,
        key: str | None = None,
        idle_timeout: float | None = None,
        on_event: PortCallback | None = None,
        source: Callable[[PeerId], str] | None = None,
    ) -> ExposedPort:
        """Let peers connect to a TCP service of this machine; see
        :meth:`lattica.rpc.ports.ports.Ports.expose`.

        `on_event` is called in the node's thread, and must not block.
        """
        node = self._node
        exposure = await self._bridge.acall_plain(
            lambda: node.ports.expose(
                target,
                name=name,
                to=to,
                key=key,
                idle_timeout=idle_timeout,
                on_event=on_event,
                source=source,
            )
        )
        return ExposedPort(self._bridge, exposure)

    async def forward(
        self,
        peer: RemotePeer,
        port: int | str,
        *,
        local: int | str | None = None,
        key: str | None = None,
        idle_timeout: float | None = None,
        on_event: PortCallback | None = None,
        timeout: float | None = None,
    ) -> ForwardedPort:
        """Connect clients of a local port with a service of a peer; see
        :meth:`lattica.rpc.ports.ports.Ports.forward`.

        Returns when it listens. `on_event` is called in the node's thread, and must not block.
        """
        node = self._node

        async def forward() -> Forward:
            return await node.ports.forward(
                peer, port, local=local, key=key, idle_timeout=idle_timeout, on_event=on_event
            )

        made = await self._bridge.acall(
            forward, timeout=timeout, give_back=lambda late: self._bridge.soon(late.close)
        )
        return ForwardedPort(self._bridge, made)

    # Content

    async def publish(
        self,
        path: Path | str,
        name: str | None = None,
        *,
        progress: HashCallback | None = None,
        announce_timeout: float = 10.0,
        follow_links: bool = False,
        sign: bool = False,
        rate: float = math.inf,
        timeout: float | None = None,
    ) -> Ticket:
        """Hash a file or directory and serve it until the node stops; return a ticket for it.

        See :meth:`lattica.content.Publisher.publish`. `progress` is called in the loop;
        if it raises, so does this.
        """
        content = self._content
        publish = partial(
            content.publish,
            path,
            name,
            announce_timeout=announce_timeout,
            follow_links=follow_links,
            sign=sign,
            rate=rate,
        )
        if progress is None:
            return await self._bridge.acall(publish, timeout=timeout)
        return await self._bridge.acall_reporting(publish, progress, timeout=timeout)

    async def unpublish(self, publication: Ticket | Cid | str) -> None:
        """Stop serving what `publish` gave a ticket for; see `Publisher.unpublish`."""
        await self._bridge.acall_plain(self._content.unpublish, publication)

    async def fetch(
        self,
        ticket: Ticket | str,
        out_dir: Path | str,
        *,
        progress: FetchCallback | None = None,
        tensors: str | None = None,
        ranges: Sequence[ByteRange] = (),
        options: FetchOptions | None = None,
        timeout: float | None = None,
    ) -> FetchResult:
        """Fetch what a ticket names into a directory, verified; see :func:`lattica.content.fetch`.

        `progress` is called in the loop; if it raises, so does this. A fetch that
        has been broken off is taken up again where it was.
        """
        fetch = partial(self._content.fetch, ticket, out_dir, tensors, options, ranges=ranges)
        if progress is None:
            return await self._bridge.acall(fetch, timeout=timeout)
        return await self._bridge.acall_reporting(fetch, progress, timeout=timeout)

    async def publish_state_dict(
        self,
        state: Mapping[str, Any],
        directory: Path | str,
        name: str = "model",
        *,
        max_shard: int = 5_000_000_000,
        timeout: float | None = None,
    ) -> Ticket:
        """Write a state dict as a checkpoint, and serve its directory until the node stops.

        See :func:`lattica.content.publish_state_dict`. It can be fetched as PEER/NAME, too.
        """
        publish = partial(self._content.publish_state_dict, state, directory, name, max_shard)
        return await self._bridge.acall(publish, timeout=timeout)

    async def load_state_dict(
        self,
        ref: Ticket | Cid | str,
        state: Mapping[str, Any],
        *,
        strict: bool = True,
        options: FetchOptions | None = None,
        timeout: float | None = None,
    ) -> Loaded:
        """Fetch a checkpoint into tensors and arrays that exist; do not use these meanwhile.

        See :func:`lattica.content.load_state_dict`. `ref` may be PEER/NAME, too.
        """
        load = partial(self._content.load_state_dict, ref, state, strict, options)
        return await self._bridge.acall(load, timeout=timeout)
