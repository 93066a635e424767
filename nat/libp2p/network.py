"""The swarm behind py-libp2p's `INetworkService`, and a `BasicHost` on top of it.

py-libp2p's protocols (identify, ping, …) see a network like their own. Inbound streams do
not take `BasicHost`'s way, though: the swarm negotiates them and looks the protocol up in
its own table, of which the host's `Multiselect.handlers` is a view. So there is one table,
and a handler that fails costs its stream and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any

import trio
from libp2p.abc import (
    CMInfo,
    IListener,
    IMuxedConn,
    INetConn,
    INetStream,
    INetworkService,
    INotifee,
    IPeerStore,
    IRawConnection,
)
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import PingService
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.network.tag_store import TagStore
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.tools.anyio_service.api import ManagerAPI
from multiaddr.multiaddr import Multiaddr

from lattica.nat.base.addresses import split_peer, with_peer
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.identity import PeerId
from lattica.nat.libp2p.identify import Identification
from lattica.nat.libp2p.streams import NetConn, NetStream, RawConnAdapter
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm

logger = logging.getLogger(__name__)


class _SwarmListener(IListener):
    """All of the swarm's listeners, as the host asks for them."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def listen(self, maddr: Multiaddr) -> None:
        await self._swarm.listen(maddr)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return self._swarm.addrs

    async def close(self) -> None:
        await self._swarm.close()


class _PeerStore(PeerStore):
    """py-libp2p's store, which, when it is full, must not drop its owner's keys.

    It also sorts all peers for each one that it drops; so it drops several.
    """

    def __init__(self, owner: PeerId, max_peers: int) -> None:
        super().__init__(max_peers=max_peers)
        self._owner = owner

    def _enforce_peer_limit(self) -> None:
        own, limit = self.peer_data_map.pop(self._owner, None), self.max_peers
        self.max_peers -= limit // 8
        super()._enforce_peer_limit()
        self.max_peers = limit
        if own is not None:
            self.peer_data_map[self._owner] = own


class NetworkService(INetworkService):
    """A :class:`Swarm` for py-libp2p to use. Made together with its host by :func:`make_host`."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.peerstore: IPeerStore = _PeerStore(
            swarm.identity.peer_id, swarm.config.limits.max_connections
        )
        self.peerstore.add_key_pair(swarm.identity.peer_id, swarm.identity.key_pair)
        self.listeners: dict[str, IListener] = {"swarm": _SwarmListener(swarm)}
        self.notifees: list[INotifee] = []
        self._conns: dict[int, NetConn] = {}
        self._started = trio.Event()
        swarm.on_connected.append(self._connected)
        swarm.on_disconnected.append(self._disconnected)

    # --- as a py-libp2p service ---

    async def run(self) -> None:
        """Run the swarm (for `host.run()`; a :class:`lattica.Node` runs it by itself)."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.swarm.run)
            self._started.set()

    async def _start(self) -> None:
        """Wait until :meth:`run` has begun, which `host.run()` does not."""
        if hasattr(self, "_manager"):
            await self._started.wait()

    def get_manager(self) -> ManagerAPI:
        """The manager of `host.run()`; AttributeError when something else runs the swarm."""
        return self._manager

    async def close(self) -> None:
        await self.swarm.close()

    # --- connections ---

    def net_conn(self, connection: Connection) -> NetConn:
        conn = self._conns.get(connection.serial)
        if conn is None:
            conn = NetConn(connection)
            if connection.closed_reason is None:
                self._conns[connection.serial] = conn
        return conn

    async def _connected(self, connection: Connection) -> None:
        await self._notify(lambda n: n.connected(self, self.net_conn(connection)))

    async def _disconnected(self, connection: Connection) -> None:
        conn = self._conns.pop(connection.serial, None) or NetConn(connection)
        await self._notify(lambda n: n.disconnected(self, conn))

    async def _notify(self, call: Callable[[INotifee], Awaitable[None]]) -> None:
        for notifee in tuple(self.notifees):
            try:
                await call(notifee)
            except Exception:
                logger.exception("notifee %r failed", notifee)

    @property
    def connections(self) -> dict[PeerId, list[INetConn]]:  # type: ignore[override]
        return self.get_connections_map()

    def get_connections_map(self) -> dict[PeerId, list[INetConn]]:
        return {peer_id: self.get_connections(peer_id) for peer_id in self.swarm.registry.by_peer}

    def get_connections(self, peer_id: PeerId | None = None) -> list[INetConn]:
        registry = self.swarm.registry
        found = registry if peer_id is None else registry.by_peer.get(peer_id, ())
        return [self.net_conn(connection) for connection in found]

    def get_connection(self, peer_id: PeerId) -> INetConn | None:
        connection = self.swarm.registry.best(peer_id)
        return None if connection is None else self.net_conn(connection)

    def get_total_connections(self) -> int:
        return self.swarm.registry.total

    def get_peer_id(self) -> PeerId:
        return self.swarm.identity.peer_id

    async def dial_peer(self, peer_id: PeerId) -> list[INetConn]:
        addrs = known_addrs(self.peerstore, peer_id)
        return [await self._translated(self.swarm.dial(peer_id, addrs))]

    async def dial_addr(
        self, addr: Multiaddr, peer_id: PeerId, source: tuple[str, int] | None = None
    ) -> INetConn:
        """Dial one address. `source` is not needed: dials leave from the listening port."""
        return await self._translated(self.swarm.dial_fresh(peer_id, addr))

    async def dial_addr_as_responder(
        self, addr: Multiaddr, peer_id: PeerId, source: tuple[str, int] | None = None
    ) -> INetConn:
        return await self._translated(self.swarm.dial_fresh(peer_id, addr, as_responder=True))

    async def _translated(self, dial: Awaitable[Connection]) -> INetConn:
        try:
            await self._start()
            return self.net_conn(await dial)
        except (LatticaError, OSError) as error:
            raise SwarmException(str(error)) from error

    async def new_stream(self, peer_id: PeerId) -> INetStream:
        """Open a stream without a protocol, dialing the peer when it is not connected."""
        try:
            await self._start()
            connection = await self.swarm.dial(peer_id, known_addrs(self.peerstore, peer_id))
            return NetStream(connection.open_stream(), self.net_conn(connection))
        except LatticaError as error:
            raise SwarmException(str(error)) from error

    async def close_peer(self, peer_id: PeerId) -> None:
        await self.swarm.disconnect(peer_id)

    async def upgrade_outbound_raw_conn(
        self, raw_conn: IRawConnection, peer_id: PeerId
    ) -> INetConn:
        return await self._adopt(RawConnAdapter(raw_conn, peer_id, None), True, peer_id)

    async def upgrade_inbound_raw_conn(
        self, raw_conn: IRawConnection, maddr: Multiaddr
    ) -> IMuxedConn:
        conn = await self._adopt(RawConnAdapter(raw_conn, None, maddr), False, None)
        return conn.muxed_conn

    async def _adopt(self, raw: RawConnAdapter, outbound: bool, peer_id: PeerId | None) -> INetConn:
        direction = Direction.OUTBOUND if outbound else Direction.INBOUND
        return await self._translated(self.swarm.adopt(raw, direction, peer_id))

    # --- listening, handlers, notifees ---

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Accepted and not used: inbound streams go to the swarm's protocol table."""

    async def listen(self, *multiaddrs: Multiaddr) -> bool:
        await self._start()
        for addr in multiaddrs:
            for bound in await self.swarm.listen(addr):
                await self._notify(lambda n, bound=bound: n.listen(self, bound))  # type: ignore[misc]
        return True

    def register_notifee(self, notifee: INotifee) -> None:
        self.notifees.append(notifee)

    def remove_notifee(self, notifee: INotifee) -> None:
        if notifee in self.notifees:
            self.notifees.remove(notifee)

    # --- value and health of peers ---

    @property
    def tag_store(self) -> TagStore:
        return self.swarm.registry.tags

    def tag_peer(self, peer_id: PeerId, tag: str, value: int) -> None:
        self.tag_store.tag_peer(peer_id, tag, value)

    def untag_peer(self, peer_id: PeerId, tag: str) -> None:
        self.tag_store.untag_peer(peer_id, tag)

    def get_tag_info(self, peer_id: PeerId) -> Any:
        return self.tag_store.get_tag_info(peer_id)

    def protect(self, peer_id: PeerId, tag: str) -> None:
        self.tag_store.protect(peer_id, tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        return self.tag_store.unprotect(peer_id, tag)

    def is_protected(self, peer_id: PeerId, tag: str = "") -> bool:
        return self.tag_store.is_protected(peer_id, tag)

    def get_conn_mgr_info(self) -> CMInfo:
        limits = self.swarm.config.limits
        return CMInfo(
            low_watermark=int(limits.max_connections * limits.low_watermark),
            high_watermark=limits.max_connections,
            connected_count=self.swarm.registry.total,
            grace_period=limits.trim_grace,
            last_trim=None,
        )

    def get_metrics(self) -> dict[str, int]:
        registry = self.swarm.registry
        return {
            "connections": registry.total,
            "peers": len(registry.by_peer),
            "streams": sum(connection.stream_count for connection in registry),
        }

    def get_peer_health_summary(self, peer_id: PeerId) -> dict[str, Any]:
        now = trio.current_time()
        return {
            str(connection.remote_addr): {
                "age_seconds": now - connection.established_at,
                "rtt_seconds": connection.session.rtt,
                "streams": connection.stream_count,
            }
            for connection in self.swarm.registry.by_peer.get(peer_id, ())
        }

    def get_global_health_summary(self) -> dict[str, Any]:
        return {**self.get_metrics(), "time": time.time()}

    def export_health_metrics(self, format: str = "json") -> str:
        if format != "json":
            raise ValueError(f"health is exported as json, not {format!r}")
        return json.dumps(self.get_global_health_summary())

    async def get_health_monitor_status(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"enabled": True, **self.get_metrics()}


class _HandlerView(MutableMapping[TProtocol | None, StreamHandlerFn | None]):
    """The host's handlers, kept in the swarm's protocol table."""

    def __init__(self, network: NetworkService) -> None:
        self._network = network
        self._table = network.swarm.protocols.handlers
        self._original: dict[str, StreamHandlerFn] = {}

    def __setitem__(self, protocol: TProtocol | None, handler: StreamHandlerFn | None) -> None:
        if protocol is None or handler is None:
            raise ValueError("a protocol needs a name and a handler")
        name = str(protocol)
        self._original[name] = handler
        self._table[name] = self._adapt(handler)

    def _adapt(self, handler: StreamHandlerFn) -> StreamHandler:
        async def handle(stream: Stream) -> None:
            try:
                await handler(NetStream(stream, self._network.net_conn(stream.connection)))
            except StreamEOF:
                logger.debug("the peer ended the stream, and so its handler: %r", stream)
            except StreamError as error:
                # It is one of ours in their words, and is judged as such.
                if isinstance(error.__cause__, LatticaError):
                    raise error.__cause__ from None
                raise

        return handle

    def __getitem__(self, protocol: TProtocol | None) -> StreamHandlerFn | None:
        if str(protocol) not in self._table:
            raise KeyError(protocol)
        return self._original.get(str(protocol))

    def __delitem__(self, protocol: TProtocol | None) -> None:
        del self._table[str(protocol)]
        self._original.pop(str(protocol), None)

    def __iter__(self) -> Iterator[TProtocol | None]:
        return map(TProtocol, tuple(self._table))

    def __len__(self) -> int:
        return len(self._table)


class Host(BasicHost):
    """`BasicHost` whose background work belongs to the swarm's nursery."""

    def __init__(self, network: NetworkService) -> None:
        self._swarm = network.swarm  # the base class asks for addresses at once
        super().__init__(network, disable_identify_address_discovery=True)
        self.identification = Identification(
            self, network.swarm.config.identify, network.swarm.record_observation
        )
        self.multiselect.handlers = _HandlerView(network)  # type: ignore[assignment]
        network.swarm.protocols.handlers.update(self.identification.handlers)
        self.set_stream_handler(PING_ID, PingService(self).handle_ping)

    def _schedule_identify(self, peer_id: PeerId, *, reason: str) -> None:
        """As the base class, without its detached system task."""
        if peer_id not in self._identify_inflight and peer_id not in self._identified_peers:
            self._identify_inflight.add(peer_id)
            self._swarm.start_soon(self._identify_task_entry, peer_id, reason)

    async def _identify_peer(self, peer_id: PeerId, *, reason: str) -> None:
        connection = self._swarm.registry.best(peer_id)
        if connection is None or not await self.identification.ask(connection):
            return
        if peer_id in self._swarm.registry.by_peer:  # or it would stay there for good
            self._identified_peers[peer_id] = datetime.now(UTC).isoformat()

    def get_addrs(self) -> list[Multiaddr]:
        """The swarm's addresses, ending in `/p2p/` and our ID.

        The base class cuts relayed ones off at the relay's ID, and so says that the relay is us.
        """
        return [with_peer(addr, self._swarm.identity.peer_id) for addr in self._swarm.addrs]

    async def push_identify(self) -> None:
        """Tell all connected peers what is true of this node now, its addresses to begin with."""
        async with trio.open_nursery() as nursery:
            for peer_id in list(self._swarm.registry.by_peer):
                connection = self._swarm.registry.best(peer_id)
                if connection is not None:
                    nursery.start_soon(self.identification.push, connection)


def make_host(swarm: Swarm) -> Host:
    """Return a `BasicHost` on the swarm, with identify, identify-push and ping registered."""
    return Host(NetworkService(swarm))


def known_addrs(peerstore: IPeerStore, peer_id: PeerId) -> list[Multiaddr]:
    """Addresses the peerstore has of a peer, without its ID; empty when it knows none."""
    try:
        found = peerstore.addrs(peer_id)
    except PeerStoreError:
        return []
    return list(dict.fromkeys(split_peer(addr)[0] for addr in found))
