"""A document's peers: who has it, what they are told, and when what they have is compared.

News goes at once to every peer that has the document, along its topic or directly; what gets lost,
and what was written apart, is found by exchanges: at once with a peer that connects, and then every
few seconds with one or another of them.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from lattica.crdt.config import StoreConfig
from lattica.crdt.document import Received
from lattica.crdt.log.errors import ContradictionError, StoreError
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.store.replication.exchanges import Exchanges, ReplicatedSource
from lattica.crdt.store.replication.member import Member
from lattica.crdt.store.replication.news import MAX_NEWS, Seal
from lattica.crdt.store.replication.outbox import Outbox
from lattica.crdt.store.replication.wire import blame, receive_bytes, send_bytes
from lattica.crdt.store.surroundings import Discovery, Topic
from lattica.crdt.sync.messages import (
    Entries,
    Fork,
    Hello,
    PresenceMessage,
    Purpose,
    decode_message,
    find_key,
)
from lattica.crdt.sync.presence import Statement
from lattica.nat.base.errors import (
    IncompleteReadError,
    LatticaError,
    RemoteProtocolError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import Backoff
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import EventsLost, PeerConnected, PeerDisconnected
from lattica.nat.swarm.host import Host
from lattica.nat.swarm.serving.handler_places import HandlerPlaces

logger = logging.getLogger(__name__)

PUSH_DELAY: Final = 0.002
"""Seconds in which what is written is gathered before it is sent."""
FEW_PEERS: Final = 3
"""With fewer, more are looked for."""
_MAX_EXCHANGES: Final = 4
"""That others have opened with this document, at a time; further ones wait for a place."""
_SILENT_AFTER: Final = 10.0
"""Seconds in which a peer neither sends news nor takes any, after which :meth:`Replicator.synced`
waits for it no longer."""
_MOST_WAITED: Final = 60.0
"""Seconds for which it waits for those that it need not wait for."""
_TOPIC: Final = "topic"
"""The network of all whose news came along the topic: of most of them nobody here knows where they
are."""


class Replicator:
    """Keeps one document in step with those of its peers, while :meth:`run` runs.

    Args:
        host: the node.
        source: the document.
        doc_id: its ID.
        on_presence: takes a statement of presence.
        statements: those of presence that hold now.
        advance: admits what has become due.
        topic: along which news goes to those who have subscribed; others are told directly.
        discovery: where such peers are found; None: among those that are connected.
    """

    def __init__(
        self,
        host: Host,
        source: ReplicatedSource,
        doc_id: bytes,
        config: StoreConfig,
        *,
        on_presence: Callable[[bytes], None],
        statements: Callable[[], Sequence[Statement]],
        advance: Callable[[], Received],
        topic: Topic | None = None,
        discovery: Discovery | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._host = host
        self._source = source
        self._doc_id = doc_id
        self._config = config
        self._on_presence = on_presence
        self._statements = statements
        self._advance = advance
        self._topic = topic
        self._seal = Seal(doc_id)
        self._discovery = discovery
        self._rng = rng or random.Random()
        self.exchanges = Exchanges(
            host,
            source,
            doc_id,
            config.max_snapshot,
            self._rng,
            admitting=self._admitting,
            on_move=self._moved,
        )
        self._members: dict[PeerId, Member] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        """Set, and another one made, when there is another member or an exchange has ended."""
        self._answering = HandlerPlaces(_MAX_EXCHANGES)
        self._places = Places[PeerId](config.max_peers)
        """Of those that have the document."""
        self._numbers = itertools.count()
        """Of exchanges and of waits for them, in the order in which they begin."""
        self._serving: dict[tuple[PeerId, Purpose], trio.CancelScope] = {}
        """What others have opened; one of a kind for each."""
        self._origin: PeerId | None = None
        """Who has sent what is admitted just now."""
        self._is_from_topic = False
        """Whether it came along the topic."""
        self._own = Outbox()
        self._own_news = trio.Event()

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have the document."""
        return tuple(member.peer for member in self._members.values() if member.has_it)

    # What is written and admitted here.

    def tell(self, outcome: Outcome) -> None:
        """Spread what has just been admitted. Never waits."""
        if not outcome.admitted and not outcome.forks:
            return
        for member in self._told_directly():
            member.outbox.put(outcome.admitted, outcome.forks)
            self._announce(member)
        # What came along the topic has gone to everyone there already.
        if self._topic is not None and not self._is_from_topic:
            self._own.put(outcome.admitted, outcome.forks)
            self._own_news.set()

    def tell_presence(self, key: bytes, statement: bytes) -> None:
        """Spread a statement of presence, to others than who has sent it."""
        for member in self._told_directly():
            member.outbox.put_presence(key, statement)
            member.news.set()
        if self._topic is not None and not self._is_from_topic:
            self._own.put_presence(key, statement)
            self._own_news.set()

    def _told_directly(self) -> Iterator[Member]:
        """Who has the document, and has neither sent the news nor hears it along the topic."""
        hearing = self._topic.peers() if self._topic is not None else ()
        for member in self._members.values():
            if member.has_it and member.peer != self._origin and member.peer not in hearing:
                yield member

    def _announce(self, member: Member) -> None:
        member.news.set()
        if member.outbox.is_full:
            member.outbox.is_full = False
            member.wanted.set()

    def compare_with_all(self) -> None:
        """Have an exchange with every peer that has the document."""
        for member in self._members.values():
            if member.has_it:
                member.wanted.set()

    async def synced(self, peers: int) -> tuple[PeerId, ...]:
        """Wait until so many peers have been compared with since the call, and all of those that
        are connected now. See :meth:`SharedDocument.synced`.
        """
        began, called, enough_at = next(self._numbers), trio.current_time(), math.inf
        for member in self._members.values():
            member.wanted.set()
        while True:
            now, known = trio.current_time(), [m for m in self._members.values() if m.has_it]
            done = [member.peer for member in known if member.synced_at > began]
            others = [member for member in known if member.synced_at <= began]
            until = math.inf
            if len(done) >= peers:
                enough_at = min(enough_at, now)
                silent_at = (max(called, each.moved_at) + _SILENT_AFTER for each in others)
                until = min(max(silent_at, default=now), enough_at + _MOST_WAITED)
            if until <= now:
                return tuple(done)
            with trio.move_on_at(until):
                await self._changed.wait()

    # Who is there.

    async def run(self) -> None:
        """Until cancelled."""
        with self._host.events() as events:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._attend_all()
                nursery.start_soon(self._compare_now_and_then)
                if self._discovery is not None:
                    nursery.start_soon(self._look_for_peers, self._discovery)
                if self._topic is not None:
                    nursery.start_soon(self._publish, self._topic)
                    nursery.start_soon(self._listen, self._topic)
                async for event in events:
                    match event:
                        case PeerConnected(peer_id=peer):
                            self._attend(peer)
                        case PeerDisconnected(peer_id=peer):
                            self._dismiss(peer)
                        case EventsLost():
                            self._attend_all()

    def _attend_all(self) -> None:
        connected = [status.peer_id for status in self._host.peers()]
        for peer in self._members.keys() - set(connected):
            self._dismiss(peer)
        for peer in connected:
            self._attend(peer)

    def _attend(self, peer: PeerId, *, is_due: bool = True) -> Member | None:
        member = self._members.get(peer)
        if member is not None or self._nursery is None:
            return member
        backoff = Backoff(1.0, 60.0, self._rng, trio.current_time())
        member = Member(peer, trio.CancelScope(), backoff)
        self._members[peer] = member
        if is_due:
            member.wanted.set()
        self._nursery.start_soon(self._serve_member, member)
        return member

    def _dismiss(self, peer: PeerId) -> None:
        member = self._members.pop(peer, None)
        if member is not None:
            self._places.leave(peer)
            member.scope.cancel()
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _serve_member(self, member: Member) -> None:
        with member.scope:
            # Of two that meet, one has had its exchange before the other begins its own.
            if self._host.peer_id.to_bytes() > member.peer.to_bytes():
                with trio.move_on_after(self._rng.uniform(0.1, 0.3)):
                    await self._changed.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._push, member)
                while True:
                    await member.wanted.wait()
                    member.wanted = trio.Event()
                    if not await self._exchange(member):
                        break
                nursery.cancel_scope.cancel()
        if self._members.get(member.peer) is member:
            self._dismiss(member.peer)

    # Exchanges.

    async def _exchange(self, member: Member) -> bool:
        """One exchange, opened here; whether there is any use in another one."""
        await trio.sleep(max(0.0, member.backoff.due - trio.current_time()))
        began = next(self._numbers)
        try:
            is_due_again = await self.exchanges.begin(
                member.peer, lambda source: self._found(member, source)
            )
            if is_due_again is None:
                return False
        except UnsupportedProtocolError:
            return False
        except ContradictionError as error:
            # Another exchange proves it, or one of them has pruned what would.
            logger.debug("no snapshot peer=%s reason=%s", member.peer, error)
        except RemoteProtocolError as error:
            blame(member.peer, error)
        except StoreError as error:
            self._not_kept(member.peer, error)
        except (LatticaError, TimeoutError) as error:
            logger.debug("no exchange peer=%s reason=%r", member.peer, error)
        else:
            member.backoff.again(trio.current_time())
            member.was_asked = True
            if is_due_again:
                member.wanted.set()  # the peer may lack something, too
                return True
            member.synced_at = began
            self._note_change()
            return True
        member.backoff.failed(trio.current_time())
        member.wanted.set()
        return True

    def _found(self, member: Member, source: Source) -> bool:
        """A peer has the document; whether there is a place for it among those that do."""
        if self._members.get(member.peer) is not member:
            return False
        if not member.has_it:
            losers = self._places.enter(member.peer, source, trio.current_time(), proven=True)
            if losers is None:
                self._dismiss(member.peer)
                return False
            for loser in losers:
                self._dismiss(loser)
            member.has_it = True
            for statement in self._statements():
                member.outbox.put_presence(statement.identity, statement.encoded)
                member.news.set()
            self._note_change()
        return True

    @contextmanager
    def _admitting(self, peer: PeerId) -> Iterator[None]:
        """While what the peer has sent is admitted, which it is not told of."""
        self._origin = peer
        try:
            yield
        finally:
            self._origin = None

    def _moved(self, peer: PeerId) -> None:
        member = self._members.get(peer)
        if member is not None:
            member.moved_at = trio.current_time()

    async def _compare_now_and_then(self) -> None:
        while True:
            await trio.sleep(self._config.sync_interval * self._rng.uniform(0.75, 1.25))
            try:
                self._advance()
            except StoreError as error:
                logger.error("a document cannot be kept: %s", error)
            having = [member for member in self._members.values() if member.has_it]
            if having:
                self._rng.choice(having).wanted.set()

    # News.

    async def _push(self, member: Member) -> None:
        """Tell a peer what is new, on one stream for as long as it lasts."""
        while True:
            await member.news.wait()
            member.news = trio.Event()
            try:
                opened = await self.exchanges.open(member.peer, Purpose.PUSH)
                if opened is None:
                    await trio.sleep(self._config.sync_interval)
                    continue
                async with opened[0] as stream:
                    while True:
                        await trio.sleep(PUSH_DELAY)
                        for message in member.outbox.take(self._source):
                            await send_bytes(stream, message)
                        if not member.outbox:
                            await member.news.wait()
                            member.news = trio.Event()
            except UnsupportedProtocolError:
                await trio.sleep(self._config.sync_interval)
            except (LatticaError, TimeoutError) as error:
                logger.debug("news did not arrive peer=%s reason=%r", member.peer, error)
                # The exchange finds out what was lost.
                member.wanted.set()
                await trio.sleep(1.0)

    async def _publish(self, topic: Topic) -> None:
        while True:
            await self._own_news.wait()
            self._own_news = trio.Event()
            await trio.sleep(PUSH_DELAY)
            try:
                for message in self._own.take(self._source):
                    if len(message) > MAX_NEWS:
                        self.compare_with_all()
                    else:
                        await topic.publish(self._seal.close(message))
            except LatticaError as error:
                logger.debug("news did not go out document=%s reason=%r", self._doc_id.hex(), error)
                self.compare_with_all()

    async def _listen(self, topic: Topic) -> None:
        async with topic.subscribe(self._seal.fits) as messages:
            async for peer, message in messages:
                self._is_from_topic = True
                try:
                    self._hear(self._seal.open(message), peer, _TOPIC)
                except RemoteProtocolError as error:
                    blame(peer, error)
                except StoreError as error:
                    self._not_kept(peer, error)
                finally:
                    self._is_from_topic = False

    def _hear(self, data: bytes, peer: PeerId, network: Hashable) -> None:
        """Take news. Raises RemoteProtocolError and StoreError."""
        with self._admitting(peer):
            match decode_message(data):
                case Entries(chain):
                    received = self._source.receive(chain, Source(peer, network))
                    if received.refusals or received.waiting:
                        self._want(peer)
                case Fork(proof):
                    self._source.receive_fork(proof)
                case PresenceMessage(statement):
                    self._on_presence(statement)
                case _:
                    raise RemoteProtocolError("a message that is no news")

    async def _hear_all(self, stream: Stream) -> None:
        while True:
            try:
                data = await receive_bytes(stream, math.inf)
            except IncompleteReadError:
                return  # it has ended
            self._hear(data, stream.peer_id, stream.source.network)

    def _want(self, peer: PeerId) -> None:
        having = [member for member in self._members.values() if member.has_it]
        member = self._members.get(peer)
        if member is not None:
            member.wanted.set()
        elif having:  # it came along the topic, from far away
            self._rng.choice(having).wanted.set()

    # What others open.

    async def serve(self, stream: Stream, hello: Hello) -> None:
        """Serve a stream whose hellos have been said, until it ends.

        Raises what streams do, RemoteProtocolError, and TimeoutError.
        """
        key = stream.peer_id, hello.purpose
        former = self._serving.get(key)
        if former is not None:
            former.cancel()  # it has begun anew
        with trio.CancelScope() as scope:
            self._serving[key] = scope
            try:
                await self._serve(stream, hello.purpose, hello.nonce)
            except StoreError as error:
                self._not_kept(stream.peer_id, error)
                stream.reset()
            finally:
                if self._serving.get(key) is scope:
                    del self._serving[key]
        if scope.cancelled_caught:
            stream.reset()

    def recheck(self) -> None:
        """Rights have changed: who may not read is told nothing more, and who may is asked."""
        if self._nursery is None:
            return
        for member in [*self._members.values()]:
            if member.has_it and not self._source.may_pull(member.peer):
                self._dismiss(member.peer)
        self.stop()  # they begin anew where they may
        self.exchanges.begin_anew()
        self.compare_with_all()
        for status in self._host.peers():
            self._attend(status.peer_id)

    def stop(self) -> None:
        """End what others have opened."""
        for scope in self._serving.values():
            scope.cancel()

    async def _serve(self, stream: Stream, purpose: Purpose, nonce: bytes) -> None:
        member = self._attend(stream.peer_id, is_due=purpose is not Purpose.SYNC)
        if member is not None and not self._found(member, stream.source):
            member = None  # it gets what it asks for, and is not told or asked of itself
        if purpose is Purpose.PUSH:
            await self._hear_all(stream)
            return
        async with self._answering.of(stream):
            began = next(self._numbers)
            if purpose is Purpose.SNAPSHOT:
                if await self.exchanges.give_snapshot(stream) and member is not None:
                    member.wanted.set()
                return
            ended = await self.exchanges.converse(stream, nonce, is_opener=False)
        if member is None:
            return
        if ended.has_heard and not ended.needs_snapshot:
            member.synced_at = began
            self._note_change()
        elif ended.needs_snapshot or not member.was_asked:
            member.wanted.set()  # what it has is not here, or it has only listened

    @staticmethod
    def _not_kept(peer: PeerId, error: StoreError) -> None:
        if trio.current_effective_deadline() == -math.inf:
            return  # the document was closed meanwhile
        peer_log.log(
            logger, logging.ERROR, peer, "what peer %s has sent cannot be kept: %s", peer, error
        )

    # Finding more.

    async def _look_for_peers(self, discovery: Discovery) -> None:
        key = find_key(self._doc_id)
        while True:
            try:
                await discovery.advertise(key)
                if len(self.peers) < FEW_PEERS:
                    async for peer in discovery.find(key):
                        if peer != self._host.peer_id and peer not in self._members:
                            await self._meet(peer)
                        if len(self.peers) >= FEW_PEERS:
                            break
            except (LatticaError, TimeoutError) as error:
                logger.debug("no peers were found reason=%r", error)
            await trio.sleep(self._config.find_interval * self._rng.uniform(0.75, 1.25))

    async def _meet(self, peer: PeerId) -> None:
        try:
            await self._host.connect(peer)
        except (LatticaError, TimeoutError) as error:
            logger.debug("a peer that was found cannot be reached peer=%s reason=%r", peer, error)
            return
        self._attend(peer)
