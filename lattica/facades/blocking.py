"""Lattica for threads: :class:`Lattica`, a :class:`~lattica.node.Node` whose calls block.

The node runs in a daemon thread of its own, with trio; see `lattica.facades.threads.bridge` for
what holds for every call. Everything here may be used from any number of threads at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, cast

from lattica.facades import facade
from lattica.facades.closable import OnlyWith
from lattica.facades.facade import NodeFacade, import_here
from lattica.facades.ports import ExposedPort, ForwardedPort
from lattica.facades.streams.blocking import BlockingEvents, BlockingStream
from lattica.facades.threads.handler_threads import (
    MAX_HANDLER_THREADS,
    HandlerThreads,
    handler_named,
)
from lattica.facades.threads.handoff import StreamCore
from lattica.nat.base.checks import check_timeout
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.swarm.serving.handler_kind import check_plain_handler

if TYPE_CHECKING:
    from lattica.compat.client import CompatLattica
    from lattica.config import NodeConfig
    from lattica.content import ByteRange, FetchOptions, FetchResult, Ticket
    from lattica.content.events import FetchCallback, HashCallback
    from lattica.content.manifest.cid import Cid
    from lattica.content.tensors.state_dict import Loaded
    from lattica.content.weights.options import WeightOptions, WeightVersion
    from lattica.facades.dht import BlockingDht
    from lattica.facades.rpc.blocking import BlockingRpc
    from lattica.facades.store.blocking import BlockingStore
    from lattica.facades.topics.blocking import BlockingTopic
    from lattica.facades.topics.discovery import BlockingDiscovery
    from lattica.facades.weights.blocking import BlockingWeightPublisher, BlockingWeightSubscriber
    from lattica.nat.base.keys.identity import Identity, PeerId
    from lattica.nat.base.net.multiaddr import Multiaddr
    from lattica.nat.swarm.status import PathStatus, PeerStatus
    from lattica.rpc.ports.events import PortCallback
    from lattica.rpc.ports.forwarder import Forward
    from lattica.rpc.ports.ports import Anyone, RemotePeer

logger = logging.getLogger(__name__)


class Lattica(NodeFacade, OnlyWith):
    """A node of the mesh, for programs with threads.

    ::

        with Lattica() as lattica:
            peer = lattica.connect("/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…")
            with lattica.open_stream(peer, "/echo/1") as stream:
                stream.send_all(b"hello")
                stream.send_eof()
                print(b"".join(stream))

    Without `with`, call `start` and `close`. A node that nobody closes runs on until the main
    thread ends; it is then closed within a bounded time, and threads that wait in a call of it
    get `LocalProtocolError`, so that they do not keep the interpreter.

    `config` and `identity` are those of :class:`~lattica.node.Node`. `max_handler_threads`
    bounds how many stream handlers run at once (see `handle`). With `process` the node has a
    process of its own, which ends with this one: for programs that keep their interpreter busy
    (`docs/guides/trainer.md`).

    Every call takes a `timeout` in seconds (None: what the configuration says, or without
    limit; 0: fail if it would have to wait), and raises `TimeoutError` when it has passed. All
    raise `LocalProtocolError` before `start`, after `close` (calls that block while another
    thread closes too), and in a forked child; otherwise what the method of `Node` raises.
    `KeyboardInterrupt` in a call cancels it before it is raised.
    """

    def __new__(cls, *_: object, process: bool = False, **__: object) -> Self:
        if not process:
            return super().__new__(cls)
        from lattica.daemon.process.blocking import ProcessLattica

        if not issubclass(ProcessLattica, cls):
            raise LocalProtocolError(f"process=True is for Lattica itself, not {cls.__name__}")
        return cast("Self", super().__new__(ProcessLattica))

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        identity: Identity | None = None,
        max_handler_threads: int = MAX_HANDLER_THREADS,
        process: bool = False,
        **settings: Never,
    ) -> None:
        super().__init__(config, identity=identity, **settings)
        self._handlers = HandlerThreads(self._bridge, max_handler_threads, BlockingStream)

    @staticmethod
    def builder() -> CompatLattica:
        """A node with the Python API of the original `lattica` 1.0.21 (docs/guides/compat.md)."""
        from lattica.compat.client import CompatLattica

        return CompatLattica()

    # Life

    def start(self) -> Self:
        """Start the node; returns when it listens. Nothing happens when it is started already.

        Raises:
            ListenError: no address can be listened on.
            ConfigError: a setting cannot be used.
            IdentityError: the key cannot be read or made.
            LocalProtocolError: it has been closed: it runs once.
        """
        self._opened = self._bridge.start()
        return self

    def close(self, timeout: float | None = None) -> None:
        """Stop the node and wait for it; any number of times, from any thread.

        Calls in flight raise `LocalProtocolError`, and streams that are still open are reset.
        What was sent on those that have been closed is still delivered if it can be within
        `Timeouts.shutdown` seconds. Handlers have as long to return; threads of those that do
        not are left behind, as daemons. `timeout` bounds the wait further; `TimeoutError` then
        means that the node is still stopping.
        """
        deadline = monotonic() + check_timeout(timeout)
        if not self._bridge.close(timeout):
            raise TimeoutError(f"the node has not stopped within {timeout:g} s")
        self._handlers.wait(min(self._grace(), max(0.0, deadline - monotonic())))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Of the process that `process=True` has started for the node; None: it is in this one."""
        return None

    # Calls

    @property
    def rpc(self) -> BlockingRpc:
        """Calls to other peers, and what this node serves to them (`docs/rpc.md`)."""
        from lattica.facades.rpc.blocking import BlockingRpc

        import_here(*facade.RPC)
        return BlockingRpc(self._bridge, self._node)

    # Topics

    def topic(self, name: str) -> BlockingTopic:
        """A topic, to publish and to subscribe to; see `Node.topic`."""
        from lattica.facades.topics.blocking import BlockingTopic

        import_here(*facade.TOPICS)
        return BlockingTopic(self._bridge, self._bridge.call_plain(self._node.topic, name))

    # Weights

    def publish_weights(
        self, name: str, options: WeightOptions | None = None
    ) -> BlockingWeightPublisher:
        """A channel on which this node publishes versions of weights (`docs/guides/weights.md`).
        Close it, or use `with`.
        """
        from lattica.facades.weights.blocking import BlockingWeightPublisher

        return BlockingWeightPublisher(self._bridge, self._node, name, options)

    def follow_weights(
        self,
        channel: str,
        options: WeightOptions | None = None,
        *,
        on_version: Callable[[WeightVersion], object] | None = None,
    ) -> BlockingWeightSubscriber:
        """The versions of a channel `PEER/NAME`, the newest each time (`docs/guides/weights.md`).
        Close it, or use `with`.

        `on_version` is called with each in a thread of its own; what it raises ends the channel.
        """
        from lattica.facades.weights.blocking import BlockingWeightSubscriber

        return BlockingWeightSubscriber(self._bridge, self._node, channel, options, on_version)

    @property
    def documents(self) -> BlockingStore:
        """Documents that are replicated with every peer that has them open (`docs/crdt.md`).

        `Node.store`, under a name that the original Lattica's API does not have.
        """
        from lattica.facades.store.blocking import BlockingStore

        import_here(*facade.DOCUMENTS)
        return BlockingStore(self._bridge, self._node)

    @property
    def discovery(self) -> BlockingDiscovery:
        """Peers by topic, from all there is to ask (`docs/discovery.md`)."""
        from lattica.facades.topics.discovery import BlockingDiscovery

        import_here(*facade.DISCOVERY)
        return BlockingDiscovery(self._bridge, self._node)

    @property
    def dht(self) -> BlockingDht:
        """Values, providers and peers, found without a centre (`docs/discovery.md`)."""
        from lattica.facades.dht import BlockingDht

        import_here(*facade.DHT)
        return BlockingDht(self._bridge, self._node)

    # Peers

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Where this node can be dialed, each address with its peer ID."""
        node = self._node
        return self._bridge.call_plain(lambda: node.addrs)

    @property
    def announcing(self) -> tuple[str, ...]:
        """What may still add to `addrs`, in words; see `Node.announcing`."""
        node = self._node
        return self._bridge.call_plain(lambda: node.announcing)

    def connect(
        self,
        target: str | Multiaddr | PeerId | Sequence[str | Multiaddr],
        *,
        timeout: float | None = None,
    ) -> PeerId:
        """Make sure there is a connection to a peer, and return its ID; see `Node.connect`."""
        connect = partial(self._node.connect, timeout=check_timeout(timeout))
        return self._bridge.call(connect, target)

    def wait_connected(self, peer: PeerId | str, *, timeout: float | None = None) -> None:
        """Wait until the peer is connected, whichever side dials."""
        wait = partial(self._node.wait_connected, timeout=check_timeout(timeout))
        self._bridge.call(wait, peer)

    def path(self, peer: PeerId | str) -> PathStatus | None:
        """How a peer is reached now, and why not in a better way; None if it is not connected."""
        return self._bridge.call_plain(self._node.path, peer)

    def wait_announced(self, *, timeout: float | None = 10.0) -> None:
        """Wait until `addrs` has what there is to be found out soon; see `Node.wait_announced`.

        Returns after `timeout` seconds in any case.
        """
        self._bridge.call(self._node.wait_announced, check_timeout(timeout))

    def wait_reachable(self, *, timeout: float | None = None) -> None:
        """Wait until others can reach this node by a relay; see `Node.wait_reachable`."""
        self._bridge.call(self._node.wait_reachable, check_timeout(timeout))

    def is_connected(self, peer: PeerId | str) -> bool:
        """Whether there is a connection to the peer now."""
        return self._bridge.call_plain(self._node.is_connected, peer)

    def peers(self) -> tuple[PeerStatus, ...]:
        """The connected peers."""
        return self._bridge.call_plain(self._node.peers)

    def add_address(self, peer: PeerId | str, addr: str | Multiaddr) -> None:
        """Note where a peer can be dialed."""
        self._bridge.call_plain(self._node.add_address, peer, addr)

    def disconnect(self, peer: PeerId | str, *, timeout: float | None = None) -> None:
        """Close all connections to the peer."""
        self._bridge.call(self._node.disconnect, peer, timeout=timeout)

    def events(self) -> BlockingEvents:
        """Subscribe to what happens to the node from now on. Close it, or use `with`."""
        return BlockingEvents(self._bridge, self._node)

    # Streams

    def open_stream(
        self,
        peer: PeerId | str,
        protocol: str | Sequence[str],
        *,
        timeout: float | None = None,
    ) -> BlockingStream:
        """Open a stream to the peer, connecting first if need be; see `Node.open_stream`.

        Of several protocols the peer's first in this order is taken.
        """
        open_stream = partial(self._node.open_stream, timeout=check_timeout(timeout))
        stream = self._bridge.call(open_stream, peer, protocol, give_back=self._discard)
        return BlockingStream(StreamCore(self._bridge, stream))

    def handle(
        self,
        protocol: str,
        handler: Callable[[BlockingStream], object] | str,
        *,
        replace: bool = False,
        limit: int | None = None,
    ) -> None:
        """Have `handler(stream)` called, in a thread, for every stream of `protocol`.

        A text, "package.module:function", is imported where the node is: with `process=True` in the
        node's process, so that it answers while this one is busy.

        When it returns the stream is closed, when it raises the stream is reset and the error
        logged. An async function, of which nothing would run, is refused with LocalProtocolError,
        or, if that shows only in what it returns, logged as an error. Threads are made as they are
        needed. At most `max_handler_threads` handlers run at once, and `limit` of this protocol;
        further streams wait, unread, so that their senders are held up by flow control. A WARNING
        says when the threads are nearly all busy, and with what. For `replace` and `limit` see
        `Node.handle`.
        """
        handle = partial(self._node.handle, replace=replace, limit=limit)
        function = handler_named(handler) if isinstance(handler, str) else handler
        check_plain_handler(function)  # before it is wrapped
        self._bridge.call_plain(
            handle,
            protocol,
            lambda stream: self._handlers.serve(function, stream),
        )

    def unhandle(self, protocol: str) -> None:
        """Accept no more streams of `protocol`; those that are being handled go on."""
        self._bridge.call_plain(self._node.unhandle, protocol)

    # Ports

    def expose(
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
        exposure = self._bridge.call_plain(
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

    def forward(
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

        made = self._bridge.call(
            forward, timeout=timeout, give_back=lambda late: self._bridge.soon(late.close)
        )
        return ForwardedPort(self._bridge, made)

    # Content

    def publish(
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

        See :meth:`lattica.content.Publisher.publish`. `progress` is called in the calling thread;
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
            return self._bridge.call(publish, timeout=timeout)
        return self._bridge.call_reporting(publish, progress, timeout=timeout)

    def unpublish(self, publication: Ticket | Cid | str) -> None:
        """Stop serving what `publish` gave a ticket for; see `Publisher.unpublish`."""
        self._bridge.call_plain(self._content.unpublish, publication)

    def fetch(
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

        `progress` is called in the calling thread; if it raises, so does this. A fetch that
        has been broken off is taken up again where it was.
        """
        fetch = partial(self._content.fetch, ticket, out_dir, tensors, options, ranges=ranges)
        if progress is None:
            return self._bridge.call(fetch, timeout=timeout)
        return self._bridge.call_reporting(fetch, progress, timeout=timeout)

    def publish_state_dict(
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
        return self._bridge.call(publish, timeout=timeout)

    def load_state_dict(
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
        return self._bridge.call(load, timeout=timeout)
