"""The DHT of one node, as applications hold it: `node.dht`."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from lattica.dht.client.finding import PeerFinder
from lattica.dht.client.peers import Peers
from lattica.dht.client.provider_search import ProviderSearch
from lattica.dht.client.provider_stream import ProviderStream
from lattica.dht.client.providing.provides import Provides
from lattica.dht.client.providing.providing import Provided, Providing
from lattica.dht.client.reading import Reader
from lattica.dht.client.ties import Ties
from lattica.dht.client.values import Values
from lattica.dht.client.writing import Writer
from lattica.dht.config import DhtConfig
from lattica.dht.errors import DhtError, NoDhtPeersError, NotStoredError
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.records.data import encode_data
from lattica.dht.records.found import Found, FoundPeer
from lattica.dht.records.keys import (
    KeyLike,
    key_bytes,
    key_text,
    provider_key,
    several_keys,
    value_key,
)
from lattica.dht.records.plain import STANDARD
from lattica.dht.records.signed_value import MAX_SUBKEY
from lattica.dht.server.core import ServerCore
from lattica.dht.server.service import Service
from lattica.dht.status import DhtStatus
from lattica.dht.store.keeper import Keeper
from lattica.dht.store.records import KINDS, RecordStore
from lattica.dht.store.rows import Kind, Row
from lattica.dht.upkeep import own as own_records
from lattica.dht.upkeep import remembered
from lattica.dht.upkeep.announce import Announcer
from lattica.dht.upkeep.membership import Membership
from lattica.dht.upkeep.republish import Republisher
from lattica.dht.upkeep.serving import ModeFollower
from lattica.nat.base.checks import check_count, check_seconds
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.concurrency.tasks import keep
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId, as_peer_id
from lattica.nat.base.net.addresses import order_addresses, split_peer
from lattica.nat.swarm.addresses.told_names import ToldNames
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""Keys that :meth:`Dht.get_many` gets at a time."""
_LOADED_AT_ONCE = 64
_LONGEST_TTL = 1e10
"""Seconds."""
_CONTACTS = 200
"""Peers of the table that are kept over a restart."""


class Dht:
    """Values, providers and peers, found without a centre. For the trio thread only.

    ::

        await node.dht.put("models/latest", {"root": "bafk…", "step": 1200})
        found = await node.dht.get("models/latest", owner=trainer)
        print(found.value, found.sequence)

        await node.dht.provide("gpu/a100")
        async for peer in node.dht.find_providers("gpu/a100"):
            await node.connect(peer.addrs or peer.peer_id)

    Made by :class:`lattica.Node`, as `node.dht`; it joins the network in the background, and calls
    wait for that for up to ten seconds if there is anybody who might answer. They raise
    :class:`~lattica.errors.NoDhtPeersError` when nobody can be asked, and
    :class:`~lattica.errors.LocalProtocolError` for arguments that cannot be. They may be cancelled
    at any time; what was stored by then stays stored.

    Args:
        names: looks up the names among addresses that peers tell of.
        path: the file of records; None: memory.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        config: DhtConfig | None = None,
        *,
        identity: Identity,
        ties: Ties,
        names: ToldNames | None = None,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or DhtConfig()
        self._identity = identity
        self._clock = clock
        self._ties = ties
        self._host = host
        self._rng = random.Random()
        self._keeper = Keeper(path, self._take)
        self._store = RecordStore(self.config.store, kinds=STANDARD, journal=self._keeper)
        self._own = own_records.OwnRecords(host.peer_id, self._keeper)
        self._peers = Peers(host, ties, self.config, names)
        self._reader = Reader(self._peers, STANDARD, clock)
        self._writer = Writer(self._peers)
        self._providing = Providing(
            self._peers,
            self._reader,
            self._writer,
            own=self._own_contact,
            on_provided=lambda keys: self._own.provides(keys, clock()),
        )
        self._provides = Provides(self._providing, self._start)
        self._values = Values(
            self._peers,
            self._reader,
            self._writer,
            identity=identity,
            own=self._own,
            kept=self._store.values,
            start=lambda task: self._start(trio.CancelScope(), task),
            clock=clock,
        )
        self._membership = Membership(self._peers, ties.bootstrap_peers)
        core = ServerCore(self._peers.table, self._store, find_peer=self._connected)
        self._service = Service(
            self._peers, core, self._keeper, on_asker=self._membership.met, clock=clock
        )
        self._mode = ModeFollower(host, ties, self.config.mode, serve=self._service.switch)
        self._announcer = Announcer(
            self._peers,
            self._reader,
            self._writer,
            identity,
            every=self.config.republish_after,
            clock=clock,
        )
        self._republisher = Republisher(
            self._reader,
            self._writer,
            self._providing,
            self._own,
            self._store.values,
            self.config,
            clock=clock,
        )
        self._keeper.serve(KINDS, self._store)
        self._keeper.serve(own_records.KINDS, self._own)
        self._network = remembered.Remembered(
            lambda: self._peers.table.closest(self._peers.own.key, _CONTACTS),
            self._peers.sizes,
            self._keeper,
        )
        self._keeper.serve(remembered.KINDS, self._network)
        self._finder = PeerFinder(self._peers, self._reader)
        self._tasks = trio.CapacityLimiter(_AT_ONCE)
        self._search = ProviderSearch(
            self._peers,
            self._reader,
            self._finder,
            self._store.providers,
            ready=self._ready,
            require_answers=self._require_answers,
            limiter=self._tasks,
            clock=clock,
            rng=self._rng,
        )
        self._scopes: set[trio.CancelScope] = set()
        self._loaded = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._nursery = nursery
        nursery.start_soon(self._run)

    # --- values ---

    async def put(
        self,
        key: KeyLike,
        value: object,
        *,
        subkey: str | None = None,
        ttl: float | None = None,
    ) -> int:
        """Store a value, signed by this node, at the peers nearest to its key.

        Each owner has one value under a key, or one for each subkey: a later one replaces it, and
        values of others stay. Under a key `/p2p/ID/…` only the peer of that ID can write. The node
        stores the value anew, at whoever is nearest then, until it expires.

        Args:
            key: text or bytes, up to 256 bytes.
            value: plain data of up to 32 KiB: None, bools, numbers, text, bytes, lists, dicts.
            subkey: text of up to 256 bytes.
            ttl: seconds that it is valid; by default :attr:`DhtConfig.value_ttl`.

        Returns how many other peers have it, read back from each.

        Raises:
            NotStoredError: none has.
            NoDhtPeersError: nobody could be asked.
        """
        wire = value_key(key)
        place = _subkey(subkey)
        data = encode_data(value)
        ttl = self.config.value_ttl if ttl is None else ttl
        check_seconds("ttl", ttl, _LONGEST_TTL)
        await self._ready()
        stored = await self._values.put(wire, place, data, ttl)
        self._require_answers(stored.lookup)
        if not stored.held:
            raise NotStoredError(
                f"none of the {len(stored.lookup.closest())} peers nearest to {key_text(key)} has "
                f"kept it for {ttl:g} s: they have no room, or by their clocks that is over "
                "already (`lattica doctor` says whether this machine's is behind)"
            )
        await self._keeper.wait_written()
        return stored.held

    async def get(
        self, key: KeyLike, *, owner: PeerId | str | None = None, quorum: int | None = None
    ) -> Found | None:
        """The newest values under a key, of all owners and subkeys; None: there is nothing.

        Args:
            owner: only what this peer has signed. Anybody can write under a key that is not
                `/p2p/ID/…`.
            quorum: so many peers have to agree; by default :attr:`DhtConfig.quorum`. Where there
                are fewer, the newest of all that the nearest peers have.
        """
        wire = value_key(key)
        whose = None if owner is None else as_peer_id(owner)
        quorum = self.config.quorum if quorum is None else quorum
        check_count("quorum", quorum)
        await self._ready()
        found, lookup = await self._values.get(wire, owner=whose, quorum=quorum)
        if found is None:
            self._require_answers(lookup)
        return found

    async def get_many(
        self, keys: Iterable[KeyLike], *, owner: PeerId | str | None = None
    ) -> dict[KeyLike, Found | None]:
        """:meth:`get` for many keys at a time, in their order; raises what it raises for one."""
        found: dict[KeyLike, Found | None] = dict.fromkeys(several_keys(keys))
        await self._ready()

        async def one(key: KeyLike) -> None:
            async with self._tasks:
                found[key] = await self.get(key, owner=owner)

        with single_error():
            async with trio.open_nursery() as nursery:
                for key in found:
                    nursery.start_soon(one, key)
        return found

    # --- providers ---

    async def provide(self, key: KeyLike) -> int:
        """Say that this node has something: content, by its CID, or a service, by any name.

        Returns when it is where it will be found, and how many other peers know it by then, read
        back from each; in a large network others follow in the background
        (:attr:`DhtStatus.providing`). The node says so again every 22 hours until :meth:`withdraw`,
        after a restart, too, if it keeps its key.

        Backpressure: waits while 64 are on their way.

        Raises:
            NotStoredError: none does.
            NoDhtPeersError: nobody could be asked.
        """
        wire = provider_key(key)
        await self._ready()
        held = await self._provides.provide(wire)
        if not held:
            text = f"no peer near to {key_text(key)} has kept that this node provides it"
            raise self._not_kept(text)
        await self._keeper.wait_written()
        return held

    async def provide_many(self, keys: Iterable[KeyLike]) -> dict[KeyLike, int]:
        """:meth:`provide` for many keys, with about a lookup for each region of the network
        instead of one for each key.

        Returns how many peers know it of each, read back; 0: none, and it is tried again later.

        Raises:
            NotStoredError: none is known for any key.
            NoDhtPeersError: nobody could be asked.
        """
        wires = {key: provider_key(key) for key in several_keys(keys)}
        await self._ready()
        provided: Provided = await self._providing.provide_many(wires.values())
        if wires and not any(provided.holders.values()):
            text = f"no peer has kept any of {len(provided.holders)} keys"
            raise self._not_kept(text)
        missed = [wire for wire, held in provided.holders.items() if not held]
        self._own.provides(missed, self._clock() - self.config.reprovide_after)
        await self._keeper.wait_written()
        return {key: provided.holders[wire] for key, wire in wires.items()}

    async def withdraw(self, key: KeyLike) -> int:
        """Provide something no more. Returns how many peers have forgotten it; the others do when
        the record expires.
        """
        wire = provider_key(key)
        await self._provides.give_up(wire)
        self._providing.give_up(wire)
        self._own.withdraw(wire)
        await self._keeper.wait_written()
        await self._ready()
        return await self._providing.withdraw(wire)

    def find_providers(self, key: KeyLike, *, count: int | None = None) -> ProviderStream:
        """Who has something, as they are found: `async for peer in dht.find_providers(key)`.

        Args:
            count: so many are enough. By default all that the nearest peers know.

        Whoever stops early uses `async with`, or `aclose`, to end the lookup. Raises
        NoDhtPeersError from the iteration.
        """
        wire = provider_key(key)
        if count is not None:
            check_count("count", count)
        stream = ProviderStream(count)
        self._start(stream.scope, lambda: self._search.run(wire, stream))
        return stream

    # --- peers ---

    async def find_peer(self, peer: PeerId | str) -> FoundPeer | None:
        """Where a peer is, as it has said itself in the DHT, or as peers say who know it; None:
        nobody knows.
        """
        peer_id = as_peer_id(peer)
        await self._ready()
        found, answers = await self._finder.find(peer_id)
        if found is None and not answers:
            raise self._nobody()
        return found

    def remembered(self, peer: PeerId) -> FoundPeer | None:
        """Where a peer was found lately, by :meth:`find_peer` or :meth:`find_providers`."""
        return self._finder.remembered(peer)

    def peers(self) -> tuple[FoundPeer, ...]:
        """The table: peers of the DHT that this node knows, those that are far away first."""
        return tuple(map(FoundPeer.of, self._peers.table))

    def status(self) -> DhtStatus:
        """How it is."""
        keeper = self._keeper
        size = self._peers.sizes.size
        return DhtStatus(
            mode="server" if self._service.is_on else "client",
            peers=len(self._peers.table),
            values=len(self._store.values),
            providers=len(self._store.providers),
            provided=self._own.provided,
            announced_to=self._announcer.holders,
            storage=keeper.problem or ("disk" if keeper.is_on_disk else "memory"),
            network_size=None if size is None else size.peers,
            network_size_error=None if size is None else size.error,
            providing=len(self._provides),
            reprovide_due=self._republisher.provides_due,
            reprovide_lag=self._republisher.lag,
            crowded=self._peers.crowded,
        )

    async def wait_ready(self) -> None:
        """Wait until some peer of the DHT has answered."""
        await self._membership.joined.wait()

    async def aclose(self) -> None:
        """End it: serve no more, and write what is to be kept."""
        self._scope.cancel()
        for scope in tuple(self._scopes):
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    # --- inside ---

    async def _ready(self) -> None:
        if self._ended.is_set() or self._scope.cancel_called:
            raise LocalProtocolError("the DHT is there while the node runs")
        await self._loaded.wait()
        with trio.move_on_after(self._membership.patience):
            await self._membership.joined.wait()

    def _require_answers(self, lookup: Lookup) -> None:
        if not lookup.answers:
            raise self._nobody()

    def _not_kept(self, text: str) -> DhtError:
        return NotStoredError(text) if len(self._peers.table) else self._nobody()

    def _nobody(self) -> NoDhtPeersError:
        return NoDhtPeersError(
            "no peer of the DHT answers: is this node connected to one that serves "
            f"{self.config.protocol}? Set `bootstrap`, or connect to a peer; one of Lattica "
            "serves it from the first use of its `dht` on, or with `dht.enabled`"
        )

    def _start(self, scope: trio.CancelScope, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task that ends with this object at the latest."""

        async def run() -> None:
            with scope:
                self._scopes.add(scope)
                try:
                    if self._scope.cancel_called:
                        scope.cancel()
                    await task()
                finally:
                    self._scopes.discard(scope)

        self._nursery.start_soon(run)

    def _own_contact(self) -> Contact:
        addrs = [split_peer(addr)[0] for addr in self._host.addrs]
        return Contact.of(self._host.peer_id, order_addresses(addrs, limit=8) if addrs else ())

    def _connected(self, peer_id: PeerId) -> Contact | None:
        if not self._ties.is_connected(peer_id):
            return None
        return Contact.of(peer_id, self._peers.addresses_of(peer_id))

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._take(await self._keeper.load())
                self._mode.switch()
                async with trio.open_nursery() as nursery:
                    for part in (
                        self._keeper.run,
                        self._membership.run,
                        self._announce,
                        self._republisher.run,
                        self._mode.run,
                        self._network.run,
                    ):
                        nursery.start_soon(keep, part, self._rng)
                    self._loaded.set()
        finally:
            try:
                with trio.CancelScope(shield=True):
                    self._service.switch(False)
                    self._peers.questions.close()
                    await self._keeper.aclose()
            finally:  # whatever failed: `aclose` waits for it
                self._loaded.set()
                self._ended.set()

    async def _announce(self) -> None:
        await self._membership.joined.wait()
        await self._announcer.run()

    # --- restarts ---

    async def _take(self, rows: list[Row]) -> None:
        """Have what a file has; what is wrong or has expired leaves it."""
        now = self._clock()
        last = (Kind.PROVIDER, Kind.ADDRESSES)
        others = [row for row in rows if row.row_id.kind not in last]
        for start in range(0, len(others), _LOADED_AT_ONCE):
            some = others[start : start + _LOADED_AT_ONCE]
            self._store.load(some, now)
            for row in some:
                if row.row_id.kind in own_records.KINDS:
                    self._own.load(row, now)
                elif row.row_id.kind in remembered.KINDS:
                    self._network.load(row)
            await trio.lowlevel.checkpoint()
        self._store.load([row for row in rows if row.row_id.kind in last], now)
        self._membership.restore(self._network.contacts)
        await self._keeper.drop_missing(rows)


def _subkey(subkey: str | None) -> bytes:
    if subkey is None:
        return b""
    if not isinstance(subkey, str):
        raise LocalProtocolError(f"a subkey is text, not {type(subkey).__name__}")
    raw = key_bytes(subkey, "a subkey")
    assert len(raw) <= MAX_SUBKEY
    return raw
