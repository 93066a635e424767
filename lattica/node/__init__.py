"""A node: the swarm, what it serves, and what an application needs of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from itertools import starmap
from types import TracebackType
from typing import TYPE_CHECKING, Never, NoReturn

import trio

from lattica.config import NodeConfig, load_config, refuse_settings, require_config
from lattica.nat.base.checks import check_timeout
from lattica.nat.base.concurrency.exception_groups import leaves, unwrapped
from lattica.nat.base.errors import ConnectionClosedError, LocalProtocolError
from lattica.nat.base.in_process import NodeInProcess
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.key_lock import KeyLock
from lattica.nat.base.keys.peer_id import as_peer_id
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.services.standard import serve_standard
from lattica.nat.swarm.addresses.address_book import GIVEN_TTL
from lattica.nat.swarm.events import EventStream
from lattica.nat.swarm.serving.protocols import APPLICATION, StreamHandler
from lattica.nat.swarm.status import ConnectionStatus, PathStatus, PeerStatus
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.parts import Traversal
from lattica.node.bootstrap import BootstrapPeers
from lattica.node.reaching import AddrLike, Reaching, as_addr, read_target
from lattica.node.services import Services

if TYPE_CHECKING:
    from lattica.crdt.store.store import Store
    from lattica.dht.dht import Dht
    from lattica.dht.discovery.discovery import Discovery
    from lattica.dht.topics.service.topic import Topic
    from lattica.dht.topics.service.topics import Topics
    from lattica.nat.libp2p.network import Host
    from lattica.rpc.ports.ports import Ports
    from lattica.rpc.rpc import Rpc

__all__ = ["ConnectionStatus", "Node", "PathStatus", "PeerStatus"]

PeerLike = PeerId | str


class Node(NodeInProcess):
    """A member of the mesh. Use as `async with Node(config) as node` under trio.

    Args:
        config: everything there is to set; by default what :func:`lattica.load_config` finds
            in the environment, and in the TOML file that it names. Where nothing is set, the node
            listens on a free port of every interface, and contacts nobody but the local router,
            which is asked to open them.
        identity: the key; by default that of `config.identity_path` (made when there is
            none), or a new one for the node's life where that is not set either.

    Entering raises :class:`~lattica.errors.ListenError`, `IdentityError`, `KeyInUseError` (the
    key file is another node's while that runs) or `AddressError`. Leaving closes all connections
    within `Timeouts.shutdown` seconds. In between it stays connected to the peers of
    `config.bootstrap` (:mod:`lattica.node.bootstrap`), and tells of those that are unreachable in
    the log.
    All methods must be called in the trio thread; threads and asyncio have
    :class:`lattica.Lattica` and :class:`lattica.AsyncLattica`.

    Wherever a peer or an address is asked for, anything but our own object or its text raises
    `AddressError`; those of py-libp2p are given as text.
    """

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        identity: Identity | None = None,
        **settings: Never,
    ) -> None:
        refuse_settings(settings)
        require_config(config)
        self.config = load_config() if config is None else config
        path = self.config.identity_path if identity is None else None
        is_for_now = path is None and identity is None
        if identity is None:
            identity = Identity.generate() if path is None else Identity.load_or_create(path)
        self.identity = identity
        self._key_file = path
        swarm_config = self.config.swarm
        if self.config.nat.relay_only:
            swarm_config = replace(swarm_config, listen=())
        self.swarm = Swarm(identity, swarm_config)
        self._identify = serve_standard(self.swarm)
        self._host: Host | None = None
        self._bootstrap = BootstrapPeers(self.swarm, self.config.bootstrap)
        self._services = Services(
            self, self._identify, self._bootstrap, key_file=path, is_for_now=is_for_now
        )
        self._reaching = Reaching(
            self.swarm,
            lambda may_begin: self._services.dht_to_ask(may_begin=may_begin),
            knows_others=bool(self.config.bootstrap or self.config.nat.relay.relays),
        )
        self.traversal = Traversal(
            self.swarm,
            self.config.nat,
            self._identify,
            bootstrap=lambda: self._bootstrap.peer_ids,
        )
        self._relay_for_members()
        self._identify.on_push.append(self.traversal.paths.peer_changed)
        self._exit = AsyncExitStack()

    def __repr__(self) -> str:
        listening = ", ".join(map(str, self.swarm.addrs)) or "not listening"
        return f"<Node {self.peer_id} ({listening}; peers: {len(self.swarm.registry.by_peer)})>"

    def __enter__(self) -> NoReturn:
        raise TypeError("use `async with` for Node, under trio; `with` is for Lattica")

    def __exit__(self, *_: object) -> NoReturn:
        raise TypeError("use `async with` for Node, under trio")

    async def __aenter__(self) -> Node:
        _check_trio()
        try:
            async with AsyncExitStack() as stack:
                if self._key_file is not None:
                    stack.enter_context(KeyLock(self._key_file, self.identity))
                nursery = await stack.enter_async_context(trio.open_nursery())
                self._services.nursery = nursery
                await nursery.start(self.swarm.run)
                stack.push_async_callback(self.swarm.close)
                await nursery.start(self.traversal.run)
                stack.push_async_callback(self.traversal.aclose)
                await nursery.start(self._bootstrap.run)
                # Before the swarm closes: connections that end then are not to be replaced.
                stack.callback(self._bootstrap.stop)
                stack.push_async_callback(self._services.aclose)
                self._services.start()
                self._exit = stack.pop_all()
        except BaseExceptionGroup as group:
            # That a nursery is in use here is nobody's business.
            raise unwrapped(group) from None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._exit.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            # Trio may have put the body's own exception, or a copy of its group, into one.
            if exc is not None and [*map(id, leaves(group))] == [*map(id, leaves(exc))]:
                return False
            raise unwrapped(group) from None

    # --- this node ---

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Addresses others may try, each ending in `/p2p/` and this peer's ID."""
        return tuple(with_peer(addr, self.peer_id) for addr in self.swarm.addrs)

    def events(self) -> AbstractContextManager[EventStream]:
        """Subscribe: `with node.events() as events: async for event in events: …`.

        Events are those of :mod:`lattica.nat.swarm.events`, from the call on. A subscriber that
        falls more than 1,024 behind gets `EventsLost` in place of what it missed.
        """
        return self.swarm.events.subscribe()

    @property
    def host(self) -> Host:
        """py-libp2p's `BasicHost` on this node, for its protocols; made when first asked for.

        Its peer IDs and addresses are py-libp2p's own objects; a node takes `str()` of them.

        Raises:
            ImportError: py-libp2p is not installed.
        """
        if self._host is None:
            try:
                from lattica.nat.libp2p.network import make_host
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] != "libp2p":
                    raise
                raise ImportError(
                    "node.host needs py-libp2p: pip install 'lattica-stack[libp2p]'"
                ) from error
            self._host = make_host(self.swarm, self._identify)
        return self._host

    @property
    def rpc(self) -> Rpc:
        """Calls to other peers, and what this node serves to them (`docs/rpc.md`).

        Made when first asked for, and ended with the node, after calls that are under way.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.rpc

    @property
    def ports(self) -> Ports:
        """TCP services of this node for other peers, and theirs on local ports.

        How to use them is in `docs/guides/ports.md`. Made when first asked for, and ended with the
        node.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.ports

    @property
    def topics(self) -> Topics:
        """All topics of this node, and what is counted of them (`docs/discovery.md`).

        Made when first asked for, and ended with the node.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.topics

    @property
    def discovery(self) -> Discovery:
        """Peers by topic, from all there is to ask: `advertise(topic)` and `find_peers(topic)`
        (`docs/discovery.md`).

        Made when first asked for, or with the node where `discovery.mdns` is set, and ended
        with it.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.discovery

    def topic(self, name: str) -> Topic:
        """A topic, to publish and to subscribe to; see :class:`Topic`.

        Raises:
            LocalProtocolError: the node does not run, or `name` is no text of 1 to 1,024 bytes.
        """
        return self.topics.topic(name)

    @property
    def store(self) -> Store:
        """Documents that are replicated with every peer that has them open (`docs/crdt.md`).

        Made when first asked for, and ended with the node. A node whose key lives as long as
        itself keeps its documents as long, unless `store.path` is set.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.store

    @property
    def dht(self) -> Dht:
        """Values, providers and peers, found without a centre (`docs/discovery.md`).

        Made when first asked for, or with the node where `dht.enabled` is set, and ended with it.

        Raises:
            LocalProtocolError: the node does not run.
        """
        return self._services.dht

    @property
    def in_use(self) -> frozenset[str]:
        """Which of :attr:`rpc`, :attr:`ports`, :attr:`topics`, :attr:`discovery`, :attr:`store` and
        :attr:`dht` have begun, by these names: to look at them begins them."""
        return self._services.in_use

    def _relay_for_members(self) -> None:
        """Have a node that relays serve the members of documents that it says."""
        service, config = self.traversal.relay_service, self.config.nat.relay_server
        if service is None or not config.allow_documents:
            return
        from lattica.daemon.access.members import MembersAccess
        from lattica.nat.traversal.relay.server.access import lists_of

        service.access = MembersAccess(
            lists_of(config),
            config.allow_documents,
            self._services.opened_documents,
        )

    # --- peers ---

    def add_address(self, peer: PeerLike, addr: AddrLike) -> None:
        """Remember an address of a peer, for :meth:`connect` by peer ID."""
        self.swarm.address_book.add(as_peer_id(peer), [as_addr(addr)], GIVEN_TTL)

    async def connect(
        self,
        target: AddrLike | PeerId | Sequence[AddrLike],
        *,
        timeout: float = math.inf,
    ) -> PeerId:
        """Make sure there is a connection, and return the peer's ID.

        Args:
            target: a multiaddr (with `/p2p/ID` the peer must be that one; without,
                whoever answers is accepted), several of one peer, or the ID of a peer whose
                addresses are known. Where they are not, or nobody answers there, the DHT is asked
                (:attr:`dht`), if it has begun or there are bootstrap peers or relays.
            timeout: seconds; `Timeouts.connect` applies in any case.

        Raises:
            DialError: no address could be reached; with the reason of each.
            AddressError: it is no address or peer ID.
            AccessDeniedError: the access rules forbid it.
            NotConnectedError: no address is known, nor to the DHT.
            TimeoutError: after `timeout` seconds.
        """
        peer_id, addrs = read_target(target)
        with trio.move_on_after(check_timeout(timeout)):
            return (await self._dial(peer_id, addrs)).peer_id
        raise TimeoutError(f"no connection to {peer_id or addrs[0]} within {timeout:g} s")

    async def _dial(self, peer_id: PeerId | None, addrs: Sequence[Multiaddr]) -> Connection:
        connection = await self._reaching.connect(peer_id, addrs)
        self._bootstrap.resume(connection.peer_id)
        return connection

    async def wait_connected(self, peer: PeerLike, timeout: float = math.inf) -> None:
        """Wait until the peer is connected, whichever side dials.

        Raises:
            TimeoutError: after `timeout` seconds.
        """
        peer_id = as_peer_id(peer)
        with trio.move_on_after(check_timeout(timeout)) as scope:
            await self.swarm.wait_connected(peer_id)
        if scope.cancelled_caught:
            raise TimeoutError(f"{peer_id} did not connect within {timeout:g} s")

    def path(self, peer: PeerLike) -> PathStatus | None:
        """How a peer is reached now, and why not in a better way; None if it is not connected.

        Changes are told by :class:`~lattica.nat.swarm.events.PathChanged`.
        """
        return self.traversal.paths.status(as_peer_id(peer))

    async def wait_announced(self, timeout: float = 10.0) -> None:
        """Wait until :attr:`addrs` has what there is to be found out soon.

        That is an address at a relay, if any is configured, and (for two seconds) what the
        router opens. Returns after `timeout` seconds in any case; :attr:`announcing` says what is
        still missing then.
        """
        with trio.move_on_after(check_timeout(timeout)):
            await self.traversal.wait_announced()

    @property
    def announcing(self) -> tuple[str, ...]:
        """What may still add to :attr:`addrs`, in words for a person: relays that have not
        answered, a router that is being asked. Empty when all is known.
        """
        return self.traversal.announcing()

    async def wait_reachable(self, timeout: float = math.inf) -> None:
        """Wait until there is a reservation at a relay, so that others can reach this node
        whatever NAT it is behind.

        Raises:
            TimeoutError: after `timeout` seconds, with what the relays say.
            LocalProtocolError: no relay is configured.
        """
        relay = self.config.nat.relay
        if not relay.reservations or not (relay.relays or self.config.bootstrap):
            raise LocalProtocolError("no relay is configured: set `relays`, or `bootstrap`")
        await self.traversal.relays.wait_ready(check_timeout(timeout))

    def is_connected(self, peer: PeerLike) -> bool:
        return self.swarm.registry.best(as_peer_id(peer)) is not None

    def peers(self) -> tuple[PeerStatus, ...]:
        """The connected peers."""
        return tuple(starmap(PeerStatus.of, self.swarm.registry.by_peer.items()))

    async def disconnect(self, peer: PeerLike) -> None:
        """Close all connections to a peer in good order; no error when there is none.

        A bootstrap peer is then left alone until this node connects or opens a stream to it.
        """
        peer_id = as_peer_id(peer)
        self._bootstrap.release(peer_id)
        await self.swarm.disconnect(peer_id)

    # --- streams ---

    async def open_stream(
        self,
        peer: PeerLike,
        protocol: str | Sequence[str],
        *,
        timeout: float = math.inf,
    ) -> Stream:
        """Open a stream to a peer, connecting first if need be.

        Args:
            protocol: the protocol, or several in order of preference; what was agreed is
                in `stream.protocol`.
            timeout: seconds for all of it. Where no more streams are allowed, it waits so long for
                one to end; by default `Timeouts.negotiate`.

        Raises what :meth:`connect` does, too.

        Raises:
            UnsupportedProtocolError: the peer speaks none of them; for a protocol that it has
                spoken before on the connection perhaps only when the stream is read.
            ConnectionClosedError: the connection has ended meanwhile.
            ResourceLimitError: a budget is used up, also after `timeout` seconds; the message says
                which, and whose it is.
            TimeoutError: after `timeout` seconds.
        """
        peer_id = as_peer_id(peer)
        timeout = check_timeout(timeout)
        wait = None if timeout == math.inf else timeout
        with trio.move_on_after(timeout):
            try:
                await self._dial(peer_id, [])
                return await self.swarm.open_stream(peer_id, protocol, wait_for_place=wait)
            except ConnectionClosedError:
                # The connection was dead or superseded, and nothing has been sent on it
                # for the caller; so another one is as good.
                await self._dial(peer_id, [])
                return await self.swarm.open_stream(peer_id, protocol, wait_for_place=wait)
        connection = self.swarm.registry.best(peer_id)
        if connection is not None:
            connection.raise_if_full()
        raise TimeoutError(f"no stream to {peer_id} within {timeout:g} s")

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        owner: object = APPLICATION,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        """Serve a protocol: `handler(stream)` runs in a task of its own for each stream.

        When it returns, the stream is closed; when it raises, the stream is reset and the
        error is logged. When the node shuts down, it is cancelled. Registering again
        replaces the handler for new streams.

        Args:
            owner: for services that share a node with others: what this one calls itself.
            replace: take a protocol from a part of the node, or from a service, that serves
                it.
            cancel_when_gone: cancel the handler when its peer has no more use for an answer: it
                has reset the stream or stopped reading, or the connection is gone
                (:meth:`Stream.wait_gone`).
            limit: how many handlers of the protocol run at once; further streams wait, unread, so
                that their senders are held up by flow control. None: as many as there are streams.
                One that waits for 3 s gets the place of another peer's, which has more or is idle
                and whose handler waits for it: that stream is reset.

        Raises:
            LocalProtocolError: another owner serves it and `replace` is not set, the name cannot
                be that of a protocol, or the handler is none, or a plain function.
        """
        self.swarm.protocols.handle(
            protocol,
            handler,
            owner=owner,
            replace=replace,
            cancel_when_gone=cancel_when_gone,
            limit=limit,
        )

    def unhandle(self, protocol: str, *, owner: object = APPLICATION) -> None:
        """Stop serving a protocol; streams that are open go on.

        Raises:
            LocalProtocolError: another owner serves it.
        """
        self.swarm.protocols.unhandle(protocol, owner=owner)


def _check_trio() -> None:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise LocalProtocolError(
            "Node runs under trio: use lattica.AsyncLattica with asyncio, and lattica.Lattica in "
            "programs without a loop"
        ) from None
