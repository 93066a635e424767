"""Asks peers who they are, tells them who we are, and remembers where they say they are.

Each peer is asked once, when its first connection is made. A peer that fails or says nonsense
costs a debug line.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from lattica.nat.base.errors import (
    IncompleteReadError,
    LatticaError,
    RemoteProtocolError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.keys.peer_record import open_record, seal_record
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import fitting
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.patience import NO_PATIENCE, Patience
from lattica.nat.mux.stream import Stream
from lattica.nat.services.identify.messages import (
    IDENTIFY,
    IDENTIFY_PUSH,
    MAX_ADDRS,
    MAX_MESSAGE,
    MAX_MESSAGES,
    MAX_TOLD_BYTES,
    Identify,
    decode,
    encode_parts,
)
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm

logger = logging.getLogger(__name__)

ADDRESS_TTL = 24 * 3600.0
"""Seconds that the addresses a peer names are remembered after it was last connected: a machine
that sleeps through the night is where it was in the morning."""
_TIMEOUT = 10.0
"""Seconds for one exchange."""
_AGAIN, _AGAIN_LIMIT = 5.0, 300.0
"""Seconds after which a peer that could not be told of news is told again, at first and at most."""
_SEEN_AGAIN = 2.0, 8.0, 30.0
"""Seconds after which a peer is asked again where it sees this node."""
_PUSH_COST, _ANSWER_COST = 128, 16
"""What it costs to take a push and to say who this node is, in frames that carry nothing
(:class:`lattica.nat.mux.turns.Nuisance`): 128 pushes at once, and 8 a second, are taken."""
_REST = 1.0
"""Seconds for what follows a first message; not every peer ends the stream."""


class IdentifyService:
    """Identify and identify-push of one swarm. Make it before the swarm runs."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        info = swarm.config.identify
        self._protocol_version = info.protocol_version
        self._agent = info.agent_version or _own_agent()
        timeouts = swarm.config.timeouts
        self._patience = Patience(timeouts.patience, timeouts.quic_patience)
        self._asked: set[PeerId] = set()
        """Connected peers that have been asked, or are being asked."""
        self._untold: set[PeerId] = set()
        """Connected peers that have missed news, as they had not said yet that they take any."""
        self._push_due = False
        self._pushing: dict[PeerId, trio.Event] = {}
        """Those that are being told, and what is set by news that comes after that has begun."""
        self._rng = random.Random()
        self._record: tuple[tuple[Multiaddr, ...], bytes] = ((), b"")
        self._seq = 0
        self.on_push: list[Callable[[PeerId], None]] = []
        """Called with peers that have said anew who they are."""
        self.on_identified: list[Callable[[Connection, Identify], None]] = []
        """Called with what a peer has said, whether it was asked or not."""
        swarm.on_connected.append(self._connected)
        swarm.on_disconnected.append(self._disconnected)
        swarm.protocols.on_removed.append(self._protocol_removed)

    @property
    def handlers(self) -> dict[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {IDENTIFY: self._answer, IDENTIFY_PUSH: self._take_push}

    # --- saying who we are ---

    async def _answer(self, stream: Stream) -> None:
        await stream.connection.charge("identify", _ANSWER_COST)
        await self._say(stream)

    async def _say(self, stream: Stream) -> None:
        parts = encode_parts(self._describe(stream.connection))
        await stream.send_all(b"".join(map(encode_length_prefixed, parts)))

    def _describe(self, connection: Connection) -> Identify:
        """This node, as the peer on a connection is told."""
        return Identify(
            public_key=self._swarm.identity.public_key_bytes,
            listen_addrs=self._told_addrs(),
            protocols=self._swarm.protocols.names,
            observed_addr=connection.remote_addr,
            protocol_version=self._protocol_version,
            agent_version=self._agent,
            signed_record=self.own_record(),
            patience=self._patience,
        )

    def _told_addrs(self) -> tuple[Multiaddr, ...]:
        """As many of this node's addresses as others read, those that help most first."""
        return fitting(self._swarm.ranked_addrs, MAX_ADDRS, MAX_TOLD_BYTES)

    def own_record(self) -> bytes:
        """This node's addresses as a signed peer record; a new one when they have changed."""
        addrs = self._told_addrs()
        if self._record[0] != addrs or not self._record[1]:
            # The clock may have been set back, and others keep to the highest number.
            self._seq = max(self._seq + 1, time.time_ns())
            record = seal_record(self._swarm.identity, self._seq, addrs)
            self._record = addrs, record
        return self._record[1]

    async def push(self) -> None:
        """Tell all connected peers what is true of this node now, its addresses to begin with.

        A peer that is still being told of something earlier is told again after that, once. One
        that has not taken it within ten seconds is told again after a pause, until it takes it or
        is gone.
        """
        async with trio.open_nursery() as nursery:
            for peer_id in list(self._swarm.registry.by_peer):
                connection = self._swarm.registry.best(peer_id)
                if connection is None:
                    continue
                if IDENTIFY_PUSH in connection.known_protocols:
                    nursery.start_soon(self._push_to, peer_id)
                else:
                    self._untold.add(peer_id)

    def _protocol_removed(self) -> None:
        """Peers that go on assuming it would lose what they send at once."""
        if self._push_due or not self._swarm.registry.by_peer:
            return
        self._push_due = True
        self._swarm.start_soon(self._push_soon)

    async def _push_soon(self) -> None:
        await trio.lowlevel.checkpoint()  # a service may end several protocols
        self._push_due = False
        await self.push()

    async def _push_to(self, peer_id: PeerId) -> None:
        if peer_id in self._pushing:
            self._pushing[peer_id].set()
            return
        failures = 0
        try:
            while (connection := self._swarm.registry.best(peer_id)) is not None:
                news = self._pushing[peer_id] = trio.Event()
                if not await self._push_once(connection):
                    failures += 1
                    with trio.move_on_after(pause_after(failures, _AGAIN, _AGAIN_LIMIT, self._rng)):
                        await news.wait()
                elif news.is_set():
                    failures = 0
                else:
                    return
        finally:
            self._pushing.pop(peer_id, None)

    async def _push_once(self, connection: Connection) -> bool:
        """Whether the peer has taken it, which it says by ending the stream."""
        try:
            with trio.move_on_after(_TIMEOUT):
                async with await connection.open(IDENTIFY_PUSH) as stream:
                    await self._say(stream)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
                return True
        except (LatticaError, TimeoutError) as error:
            logger.debug("identify not pushed: %s peer=%s", error, connection.peer_id)
        return False

    # --- learning who a peer is ---

    async def _connected(self, connection: Connection) -> None:
        peer_id = connection.peer_id
        if peer_id in self._asked:
            for other in self._swarm.registry.by_peer.get(peer_id, ()):
                if other.patience != NO_PATIENCE:
                    connection.patience = other.patience
                if other.agent and other.instance == connection.instance:
                    _same_peer(other, connection)
        else:
            self._asked.add(peer_id)
            known = await self._ask_over_any(peer_id)
            if not known or peer_id not in self._swarm.registry.by_peer:
                self._asked.discard(peer_id)  # or it would stay there for good
        await self.ask_where_seen(connection)

    async def _ask_over_any(self, peer_id: PeerId) -> bool:
        """Ask over the best connection, and over the next one if that ends meanwhile: its own
        hook has found the peer asked.
        """
        tried: list[Connection] = []
        while (best := self._swarm.registry.best(peer_id)) is not None and best not in tried:
            if await self.ask(best):
                return True
            tried.append(best)
        return False

    async def ask_where_seen(self, connection: Connection) -> None:
        """Ask a peer at which address it sees this node by a connection, if it has not said that.

        What a NAT has given to a port is known by connections of the same kind alone, and without
        it no hole can be punched to that port. So who does not answer is asked again.
        """
        for pause in (*_SEEN_AGAIN, 0.0):
            is_due = connection.closed_reason is None and self._swarm.lacks_observation(connection)
            if not is_due or await self.ask(connection):
                return
            with trio.move_on_after(pause):
                await connection.closed.wait()

    async def _disconnected(self, connection: Connection) -> None:
        if connection.peer_id not in self._swarm.registry.by_peer:
            self._asked.discard(connection.peer_id)
            self._untold.discard(connection.peer_id)

    async def ask(self, connection: Connection) -> bool:
        """Ask the peer who it is; False when it does not say within ten seconds."""
        try:
            with trio.move_on_after(_TIMEOUT):
                async with await connection.open(IDENTIFY, optimistic=True) as stream:
                    self._take(connection, await _receive(stream))
                return True
        except (LatticaError, TimeoutError) as error:
            logger.debug("peer not identified: %s peer=%s", error, connection.peer_id)
        return False

    async def _take_push(self, stream: Stream) -> None:
        with trio.move_on_after(_TIMEOUT) as scope:
            await stream.connection.charge("identify-push", _PUSH_COST)
            self._take(stream.connection, await _receive(stream))
            for hook in self.on_push:
                hook(stream.peer_id)
        if scope.cancelled_caught:
            stream.reset("a push was not taken in time")  # or the peer would believe that it was

    def _take(self, connection: Connection, message: Identify) -> None:
        book, peer_id = self._swarm.address_book, connection.peer_id
        addrs = _own(peer_id, message.listen_addrs)
        if message.signed_record:
            try:
                record = open_record(message.signed_record)
                if record.peer_id != peer_id:
                    raise RemoteProtocolError("it is of somebody else")
                addrs = _own(peer_id, record.addrs)
            except RemoteProtocolError as error:
                logger.debug("peer record not taken: %s peer=%s", error, peer_id)
        if addrs:
            book.replace(peer_id, addrs, ADDRESS_TTL)
        if connection.direction is Direction.OUTBOUND:
            # It works, whatever the peer believes its addresses to be.
            book.add(peer_id, [connection.remote_addr], ADDRESS_TTL)
        connection.told_addrs = frozenset(addrs)
        connection.agent = message.agent_version
        connection.protocol_version = message.protocol_version
        connections = self._swarm.registry.by_peer.get(peer_id, ())
        for each in connections:
            if message.patience != NO_PATIENCE:
                each.patience = message.patience
            if message.protocols:  # a push may leave out what has not changed
                each.known_protocols.intersection_update(message.protocols)
        connection.known_protocols.update(message.protocols)
        for each in connections:
            if each.instance == connection.instance:
                _same_peer(connection, each)
        if peer_id in self._untold and IDENTIFY_PUSH in connection.known_protocols:
            self._untold.discard(peer_id)
            self._swarm.start_soon(self._push_to, peer_id)
        for hook in self.on_identified:
            hook(connection, message)
        self._swarm.note_identified(connection)
        if message.observed_addr is not None:
            self._swarm.record_observation(connection, message.observed_addr)


async def _receive(stream: Stream) -> Identify:
    """What a peer says in all its messages up to the end of the stream."""
    data = await stream.receive_message(MAX_MESSAGE)
    with trio.move_on_after(_REST), suppress(IncompleteReadError, StreamResetError):
        for _ in range(MAX_MESSAGES - 1):
            data += await stream.receive_message(MAX_MESSAGE - len(data))
    return decode(data)


def _same_peer(known: Connection, other: Connection) -> None:
    """A peer says once who it is, on whatever connection of its."""
    other.agent, other.protocol_version = known.agent, known.protocol_version
    other.told_addrs = known.told_addrs
    other.known_protocols.update(known.known_protocols)


def _own_agent() -> str:
    from importlib.metadata import version  # takes a while, and most of it only once

    return f"lattica-stack/{version('lattica-stack')}"


def _own(peer_id: PeerId, addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Addresses without the peer's ID at their end, and without those of other peers."""
    split = map(split_peer, addrs)
    return [addr for addr, named in split if named in (None, peer_id) and addr.to_bytes()]
