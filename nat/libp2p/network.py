"""The swarm behind py-libp2p's `INetworkService`, and a `BasicHost` on top of it.

py-libp2p's protocols (its pubsub, its bitswap, …) see a network like their own. Peer IDs and keys
are theirs up to here, and ours below (:mod:`lattica.nat.libp2p.border`). Identify and ping are
those of the node; what identify learns goes to py-libp2p's peerstore, too.
 Inbound streams do
not take `BasicHost`'s way, though: the swarm negotiates them and looks the protocol up in
its own table, of which the host's `Multiselect.handlers` is a view. So there is one table,
and a handler that fails costs its stream and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
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
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.network.tag_store import TagInfo, TagStore
from libp2p.peer.envelope import Envelope, unmarshal_envelope
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.tools.anyio_service.api import ManagerAPI
from multiaddr.multiaddr import Multiaddr

from lattica.nat.base.errors import AddressError, LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.base.net.addresses import split_peer, with_peer
from lattica.nat.libp2p.border import (
    libp2p_addr,
    libp2p_id,
    libp2p_key_pair,
    libp2p_public_key,
    our_addr,
    our_id,
)
from lattica.nat.libp2p.streams import NetConn, NetStream, RawConnAdapter
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.services.identify.messages import Identify
from lattica.nat.services.identify.service import ADDRESS_TTL, IdentifyService
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.swarm.tags import PeerTags

logger = logging.getLogger(__name__)


class _SwarmListener(IListener):
    """All of the swarm's listeners, as the host asks for them."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def listen(self, maddr: Multiaddr) -> None:
        await self._swarm.listen(our_addr(maddr))

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(map(libp2p_addr, self._swarm.addrs))

    async def close(self) -> None:
        await self._swarm.close()


class _OwnRecord(Envelope):
    """Our record, for py-libp2p to see whether its addresses are still ours."""

    def _env_addrs_set(self) -> set[Multiaddr]:
        record = self.record()
        return {addr.encapsulate(f"/p2p/{record.peer_id}") for addr in record.addrs}


class _PeerStore(PeerStore):
    """py-libp2p's store, which, when it is full, must not drop its owner's keys.

    It also sorts all peers for each one that it drops; so it drops several.
    """

    def __init__(self, owner: ID, max_peers: int, own_record: Callable[[], bytes]) -> None:
        super().__init__(max_peers=max_peers)
        self._owner = owner
        self._own_record = own_record

    def get_local_record(self) -> Envelope:
        """The one that identify sends: peers take no older one from its pubsub."""
        envelope = unmarshal_envelope(self._own_record())
        return _OwnRecord(
            envelope.public_key, envelope.payload_type, envelope.raw_payload, envelope.signature
        )

    def _enforce_peer_limit(self) -> None:
        own, limit = self.peer_data_map.pop(self._owner, None), self.max_peers
        self.max_peers -= limit // 8
        super()._enforce_peer_limit()
        self.max_peers = limit
        if own is not None:
            self.peer_data_map[self._owner] = own


class _TagStore(TagStore):
    """py-libp2p's tags, which count in the swarm's trimming, too."""

    _NAME = "py-libp2p"

    def __init__(self, tags: PeerTags) -> None:
        super().__init__()
        self._swarm_tags = tags

    def tag_peer(self, peer_id: ID, tag: str, value: int) -> None:
        super().tag_peer(peer_id, tag, value)
        self._note_value(peer_id)

    def untag_peer(self, peer_id: ID, tag: str) -> None:
        super().untag_peer(peer_id, tag)
        self._note_value(peer_id)

    def upsert_tag(self, peer_id: ID, tag: str, upsert_fn: Callable[[int], int]) -> None:
        super().upsert_tag(peer_id, tag, upsert_fn)
        self._note_value(peer_id)

    def _note_value(self, peer_id: ID) -> None:
        if value := self.get_tag_value(peer_id):
            self._swarm_tags.tag(our_id(peer_id), self._NAME, value)
        else:
            self._swarm_tags.untag(our_id(peer_id), self._NAME)

    def protect(self, peer_id: ID, tag: str) -> None:
        super().protect(peer_id, tag)
        self._swarm_tags.protect(our_id(peer_id), self._NAME)

    def unprotect(self, peer_id: ID, tag: str) -> bool:
        if super().unprotect(peer_id, tag):
            return True
        self._swarm_tags.unprotect(our_id(peer_id), self._NAME)
        return False


class NetworkService(INetworkService):
    """A :class:`Swarm` for py-libp2p to use. Made together with its host by :func:`make_host`."""

    def __init__(self, swarm: Swarm, identify: IdentifyService) -> None:
        self.swarm = swarm
        own_id = libp2p_id(swarm.identity.peer_id)
        self.peerstore: IPeerStore = _PeerStore(
            own_id, swarm.config.limits.max_connections, identify.own_record
        )
        self.peerstore.add_key_pair(own_id, libp2p_key_pair(swarm.identity))
        self.tag_store: TagStore = _TagStore(swarm.registry.tags)
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
    def connections(self) -> dict[ID, list[INetConn]]:  # type: ignore[override]
        return self.get_connections_map()

    def get_connections_map(self) -> dict[ID, list[INetConn]]:
        return {
            libp2p_id(peer_id): [self.net_conn(connection) for connection in found]
            for peer_id, found in self.swarm.registry.by_peer.items()
        }

    def get_connections(self, peer_id: ID | None = None) -> list[INetConn]:
        registry = self.swarm.registry
        found = registry if peer_id is None else registry.by_peer.get(our_id(peer_id), ())
        return [self.net_conn(connection) for connection in found]

    def get_connection(self, peer_id: ID) -> INetConn | None:
        connection = self.swarm.registry.best(our_id(peer_id))
        return None if connection is None else self.net_conn(connection)

    def get_total_connections(self) -> int:
        return self.swarm.registry.total

    def get_peer_id(self) -> ID:
        return libp2p_id(self.swarm.identity.peer_id)

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        return [await self._translated(self._dial(our_id(peer_id)))]

    async def _dial(self, peer_id: PeerId) -> Connection:
        """To what the node knows of the peer, and to what py-libp2p's protocols know."""
        told = self.swarm.address_book.addrs(peer_id)
        known = await self.swarm.known.of(peer_id)
        with suppress(PeerStoreError):
            for addr in self.peerstore.addrs(libp2p_id(peer_id)):
                with suppress(AddressError):  # one that only py-libp2p knows
                    base, _ = split_peer(our_addr(addr))
                    if base not in told:  # else it was judged as what the peer has said
                        known.append(base)
        return await self.swarm.dial(peer_id, dict.fromkeys(known))

    async def dial_addr(
        self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        """Dial one address. `source` is not needed: dials leave from the listening port."""
        return await self._translated(self.swarm.dial_fresh(our_id(peer_id), our_addr(addr)))

    async def dial_addr_as_responder(
        self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        dial = self.swarm.dial_fresh(our_id(peer_id), our_addr(addr), as_responder=True)
        return await self._translated(dial)

    async def _translated(self, dial: Awaitable[Connection]) -> INetConn:
        try:
            await self._start()
            return self.net_conn(await dial)
        except (LatticaError, OSError) as error:
            raise SwarmException(str(error)) from error

    async def new_stream(self, peer_id: ID) -> INetStream:
        """Open a stream without a protocol, dialing the peer when it is not connected."""
        try:
            await self._start()
            connection = await self._dial(our_id(peer_id))
            return NetStream(connection.open_stream(), self.net_conn(connection))
        except LatticaError as error:
            raise SwarmException(str(error)) from error

    async def close_peer(self, peer_id: ID) -> None:
        await self.swarm.disconnect(our_id(peer_id))

    async def upgrade_outbound_raw_conn(self, raw_conn: IRawConnection, peer_id: ID) -> INetConn:
        expected = our_id(peer_id)
        return await self._adopt(RawConnAdapter(raw_conn, expected, None), True, expected)

    async def upgrade_inbound_raw_conn(
        self, raw_conn: IRawConnection, maddr: Multiaddr
    ) -> IMuxedConn:
        conn = await self._adopt(RawConnAdapter(raw_conn, None, our_addr(maddr)), False, None)
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
            for bound in map(libp2p_addr, await self.swarm.listen(our_addr(addr))):
                await self._notify(lambda n, bound=bound: n.listen(self, bound))  # type: ignore[misc]
        return True

    def register_notifee(self, notifee: INotifee) -> None:
        self.notifees.append(notifee)

    def remove_notifee(self, notifee: INotifee) -> None:
        if notifee in self.notifees:
            self.notifees.remove(notifee)

    # --- value and health of peers ---

    def tag_peer(self, peer_id: ID, tag: str, value: int) -> None:
        self.tag_store.tag_peer(peer_id, tag, value)

    def untag_peer(self, peer_id: ID, tag: str) -> None:
        self.tag_store.untag_peer(peer_id, tag)

    def get_tag_info(self, peer_id: ID) -> TagInfo | None:
        return self.tag_store.get_tag_info(peer_id)

    def protect(self, peer_id: ID, tag: str) -> None:
        self.tag_store.protect(peer_id, tag)

    def unprotect(self, peer_id: ID, tag: str) -> bool:
        return self.tag_store.unprotect(peer_id, tag)

    def is_protected(self, peer_id: ID, tag: str = "") -> bool:
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

    def get_peer_health_summary(self, peer_id: ID) -> dict[str, Any]:
        return {
            str(connection.remote_addr): {
                "age_seconds": connection.age,
                "rtt_seconds": connection.session.rtt,
                "streams": connection.stream_count,
            }
            for connection in self.swarm.registry.by_peer.get(our_id(peer_id), ())
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
        self._table = network.swarm.protocols
        self._original: dict[str, StreamHandlerFn] = {}

    def __setitem__(self, protocol: TProtocol | None, handler: StreamHandlerFn | None) -> None:
        if protocol is None or handler is None:
            raise ValueError("a protocol needs a name and a handler")
        name = str(protocol)
        self._table.handle(name, self._adapt(handler))  # which may refuse
        self._original[name] = handler

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
        self._table.unhandle(str(protocol))
        self._original.pop(str(protocol), None)

    def __iter__(self) -> Iterator[TProtocol | None]:
        return map(TProtocol, self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


class Host(BasicHost):
    """`BasicHost` on a swarm whose node identifies peers and answers pings itself."""

    def __init__(self, network: NetworkService, identify: IdentifyService) -> None:
        self._swarm = network.swarm  # the base class asks for addresses at once
        self._identify = identify
        super().__init__(network, disable_identify_address_discovery=True)
        self.multiselect.handlers = _HandlerView(network)  # type: ignore[assignment]
        identify.on_identified.append(self._remember)
        for connection in self._swarm.registry:
            self._remember_connection(connection)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """The node does it, on each new connection."""

    async def _push_identify_to_all_peers(self) -> None:
        await self._identify.push()

    def _remember_connection(self, connection: Connection) -> None:
        """Put what the node knows of a connected peer into py-libp2p's store."""
        store, peer_id = self.get_peerstore(), libp2p_id(connection.peer_id)
        store.add_pubkey(peer_id, libp2p_public_key(connection.public_key))
        with suppress(PeerStoreError):
            store.clear_addrs(peer_id)
            store.clear_protocol_data(peer_id)
        addrs = self._swarm.address_book.addrs(connection.peer_id)
        store.add_addrs(peer_id, list(map(libp2p_addr, addrs)), int(ADDRESS_TTL))
        store.add_protocols(peer_id, sorted(connection.known_protocols))

    def _remember(self, connection: Connection, message: Identify) -> None:
        self._remember_connection(connection)
        if not message.signed_record:
            return
        try:
            # py-libp2p's parsers get only what ours have checked.
            if open_record(message.signed_record).peer_id == connection.peer_id:
                envelope = unmarshal_envelope(message.signed_record)
                self.get_peerstore().consume_peer_record(envelope, int(ADDRESS_TTL))
        except RemoteProtocolError:
            return  # the node has said so

    def get_addrs(self) -> list[Multiaddr]:
        """The swarm's addresses, ending in `/p2p/` and our ID.

        The base class cuts relayed ones off at the relay's ID, and so says that the relay is us.
        """
        own = self._swarm.identity.peer_id
        return [libp2p_addr(with_peer(addr, own)) for addr in self._swarm.addrs]


def make_host(swarm: Swarm, identify: IdentifyService) -> Host:
    """Return a `BasicHost` on the swarm that `identify` serves."""
    return Host(NetworkService(swarm, identify), identify)
