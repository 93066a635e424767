"""Topics of a node: the router, a stream to each peer, and who publishes and subscribes here."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import trio
from trio.lowlevel import ParkingLot

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import (
    Action,
    Connect,
    Deliver,
    Forward,
    Send,
    Validate,
)
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.core.router import UNCERTAIN, Router, RouterCounters, Verdict
from lattica.dht.topics.messages import (
    GOSSIPSUB_10,
    GOSSIPSUB_11,
    GOSSIPSUB_12,
    MAX_RPC,
    PROTOCOLS,
    encode_subscriptions,
    is_lone_message,
)
from lattica.dht.topics.service.judges import Judges
from lattica.dht.topics.service.link import Link
from lattica.dht.topics.service.neighbours import NeighbourEvents
from lattica.dht.topics.service.subscribers import Subscribers
from lattica.dht.topics.service.subscription import Subscription
from lattica.dht.topics.service.topic import Topic, Validator
from lattica.dht.topics.signing import Message, StrictSigning
from lattica.nat.base.checks import check_count
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import (
    LatticaError,
    LocalProtocolError,
    RemoteProtocolError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import ip_of, relay_of
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.network_groups import network_of
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.mux.connection import Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.addresses.believed import believed
from lattica.nat.swarm.events import EventsLost, PathChanged, PeerConnected, PeerDisconnected
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

OWNER = "topics"
_VERSIONS = {GOSSIPSUB_12: Version.V12, GOSSIPSUB_11: Version.V11, GOSSIPSUB_10: Version.V10}
_TURN = 32
"""Messages after which a publisher lets other tasks run."""
_RETRY_FIRST, _RETRY_LIMIT = 0.2, 60.0
"""Seconds between attempts to open a stream to a peer that is connected."""
_CONNECTING = 8
"""Peers named by others that are connected to at a time; of more, none."""
_CONNECT_TIMEOUT = 30.0
_CHARGED = 32.0
"""Cost of what a peer says, in frames that carry nothing, from which on it is counted."""
_SMALL_PIECE, _PIECE = 512, 4096
"""Bytes that are read at a time, while RPCs are small and else: they may have no more than a byte,
and each takes its time."""
_FEW = 8
"""RPCs in a piece of which the next one may be larger."""
_LONG = 4096
"""Bytes of an RPC that is not read before others have had their turn, unless it is one message."""
_SEEK_FIRST, _SEEK_LIMIT = 2.0, 300.0
"""Seconds between two looks for peers of a topic that has too few."""
_SEEK_TIMEOUT = 60.0
_LAST_SECONDS = 1.0
"""What waits for peers has so long to be taken when the node ends."""


class Topics:
    """All topics of a node. Made by :class:`lattica.Node` when a topic is first asked for.

    Args:
        sign: signs bytes with the node's key.
        record_of: signed records of other peers, which are given away in peer exchange; empty where
            there is none.
        seek: looks for peers of a topic that has too few, and connects to them; called again and
            again, and cancelled when it takes longer than a minute.
        open_stream: opens a stream to a peer that is connected, and dials none that has gone
            meanwhile. The default: as the host does.
    """

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        config: TopicsConfig | None = None,
        *,
        sign: Callable[[bytes], bytes],
        record_of: Callable[[PeerId], bytes] = lambda peer_id: b"",
        seek: Callable[[str], Awaitable[None]] | None = None,
        open_stream: Callable[[PeerId, Sequence[str]], Awaitable[Stream]] | None = None,
    ) -> None:
        self.config = config or TopicsConfig()
        self._host = host
        self._tasks = Tasks(nursery)
        self._rng = random.Random()
        self._router = Router(
            host.peer_id,
            self.config,
            StrictSigning(host.peer_id, sign),
            self._rng,
            first_seqno=time.time_ns(),
            record_of=record_of,
        )
        self._seek = seek
        self._open_stream = open_stream
        self._sought: set[str] = set()
        self._links: dict[PeerId, Link] = {}
        self._full: set[Link] = set()
        """Links whose peer is waited for."""
        self._room = ParkingLot()
        """Where publishers wait."""
        self._subscribers = Subscribers(
            self.config.lagging_after,
            on_first=lambda name: self._do(self._router.subscribe(name, trio.current_time())),
            on_last=lambda name: self._do(self._router.unsubscribe(name, trio.current_time())),
        )
        self._judges = Judges(
            self._tasks,
            self.config.validating,
            self.config.validate_timeout,
            on_needed=self._set_validating,
            on_judged=self._judged,
        )
        self._watchers: dict[str, list[NeighbourEvents]] = {}
        self._connecting = 0
        self._ended = ParkingLot()
        self._turn = _TURN
        self._closed = False
        for protocol in PROTOCOLS:
            host.handle(protocol, self._serve, owner=OWNER)
        self._tasks.start_soon(self._follow)
        self._tasks.start_soon(self._beat)

    async def aclose(self) -> None:
        """End all subscriptions, and streams after what waits for them has been sent, if that takes
        no more than a second."""
        if self._closed:
            return
        self._closed = True
        for protocol in PROTOCOLS:
            self._host.unhandle(protocol, owner=OWNER)
        self._subscribers.close()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()
        self._room.unpark_all()
        for link in self._links.values():
            link.wake()
            link.nudge()
        with trio.move_on_after(_LAST_SECONDS):
            while any(link.has_last_words for link in self._links.values()):
                await self._ended.park()
        self._tasks.cancel()
        await self._tasks.wait_ended()

    # --- for topics ---

    def topic(self, name: str) -> Topic:
        """A topic by its name, a text of 1 to 1,024 bytes of UTF-8.

        Raises:
            LocalProtocolError: it is none.
        """
        self._router.topic(name)
        if self._seek is not None and name not in self._sought:
            self._sought.add(name)
            self._tasks.start_soon(self._keep_seeking, name)
        return Topic(self, name)

    def make_fleeting(self, name: str) -> None:
        """What is said in a topic is true for a moment only: whoever was away is not told of what
        others have said meanwhile."""
        self._router.topic(name).fleeting = True

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task that ends with the topics; its errors are logged."""
        self._tasks.start_soon(function, *args)

    @property
    def counters(self) -> RouterCounters:
        """What has happened so far."""
        return self._router.counters

    @property
    def dropped(self) -> int:
        """Messages of others that were not passed on to a peer for which too much waited."""
        return sum(link.outbox.dropped for link in self._links.values())

    async def publish(self, name: str, data: bytes) -> int:
        """See :meth:`Topic.publish`."""
        self._check_open()
        self._turn -= 1
        if self._turn <= 0:
            self._turn = _TURN
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while self._full and self._is_held_up(name, len(data)):
            await self._room.park()
            self._check_open()
        count, actions = self._router.publish(name, data, trio.current_time())
        self._do(actions)
        return count

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError("the node has stopped: nothing can be published")

    def _is_held_up(self, name: str, size: int) -> bool:
        """Whether somebody is waited for who would be sent the message."""
        now = trio.current_time()
        peers = self._router.recipients(name, size)
        links = [link for peer_id in peers if (link := self._links.get(peer_id)) is not None]
        full = [link for link in links if link in self._full]
        for link in full:
            if link.stuck_since is None and now - link.progress_at >= self.config.stuck_after:
                link.stuck_since = now
        waited = [link for link in full if link.stuck_since is None]
        return bool(waited) or (bool(full) and len(full) == len(links))

    def subscription(
        self, name: str, limit: int | None, only: Callable[[Message], bool] | None
    ) -> Subscription:
        """See :meth:`Topic.subscribe`."""
        if limit is not None:
            check_count("limit", limit)
        return Subscription(self, name, self.config.queue if limit is None else limit, only)

    def attach(self, subscription: Subscription) -> None:
        """A subscriber is there."""
        self._check_open()
        self._subscribers.attach(subscription)

    def detach(self, subscription: Subscription) -> None:
        """A subscriber is gone."""
        self._subscribers.detach(subscription)

    def emptied(self, subscription: Subscription) -> None:
        """A subscriber holds up nobody any more."""
        self._subscribers.emptied(subscription)

    def subscribed(self) -> dict[str, int]:
        """The topics that somebody here has subscribed to, and how many have."""
        return self._subscribers.topics

    def set_validator(self, name: str, validator: Validator | None) -> None:
        """See :meth:`Topic.set_validator`."""
        self._judges.set(name, validator)

    def judging(self, name: str, validator: Validator) -> AbstractContextManager[None]:
        """See :meth:`Topic.judging`."""
        return self._judges.judging(name, validator)

    def _set_validating(self, name: str, is_needed: bool) -> None:
        self._router.topic(name).validating = is_needed

    def peers(self, name: str) -> tuple[PeerId, ...]:
        """See :meth:`Topic.peers`."""
        return tuple(self._router.topic(name).peers)

    @contextmanager
    def neighbours(self, name: str) -> Iterator[NeighbourEvents]:
        """See :meth:`Topic.neighbours`."""
        events = NeighbourEvents(name, self.peers(name))
        self._watchers.setdefault(name, []).append(events)
        if self._closed:
            events.close()
        try:
            yield events
        finally:
            self._watchers[name].remove(events)
            events.close()

    def set_score(self, peer_id: PeerId, score: float) -> None:
        """What the application thinks of a connected peer: it is added to what the peer has earned
        in topics (P5), and below 0 costs it its place in every mesh.
        """
        self._router.set_app_score(peer_id, score, trio.current_time())

    # --- what the router wants ---

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                self._subscribers.deliver(action.message)
            elif isinstance(action, Forward):
                for peer_id in action.peer_ids:
                    self._offer(peer_id, action.rpc, action.own)
            elif isinstance(action, Send):
                link = self._links.get(action.peer_id)
                if link is not None:
                    link.outbox.control(action.rpc)
                    link.wake()
            elif isinstance(action, Validate):
                self._judges.judge(action)
            elif isinstance(action, Connect):
                if self._connecting < _CONNECTING:
                    self._connecting += 1
                    self._tasks.start_soon(self._connect, action)
            else:
                for watcher in self._watchers.get(action.topic, ()):
                    watcher.tell(action)

    def _offer(self, peer_id: PeerId, rpc: bytes, own: bool) -> None:
        link = self._links.get(peer_id)
        if link is None:
            return
        # What a peer that is stuck does not get it is told of when it goes on.
        if link.stuck_since is not None:
            return
        if not link.outbox.size:
            link.progress_at = trio.current_time()
        if link.outbox.offer(rpc, own=own):
            if link.outbox.is_full:
                self._full.add(link)
            link.wake()

    def _judged(self, action: Validate, verdict: Verdict) -> None:
        self._do(self._router.validated(action.id, verdict, trio.current_time()))

    # --- peers ---

    async def _follow(self) -> None:
        """Have a link to every connected peer."""
        with self._host.events() as events:
            self._match()
            async for event in events:
                if isinstance(event, PeerConnected):
                    self._link(event.peer_id)
                elif isinstance(event, PeerDisconnected):
                    self._unlink(event.peer_id)
                elif isinstance(event, PathChanged):
                    link = self._links.get(event.peer_id)
                    if link is not None:
                        link.reopen = True
                        link.wake()
                elif isinstance(event, EventsLost):
                    self._match()

    def _match(self) -> None:
        connected = {status.peer_id for status in self._host.peers()}
        for peer_id in connected:
            self._link(peer_id)
        for peer_id in [*self._links.keys() - connected]:
            self._unlink(peer_id)

    def _link(self, peer_id: PeerId) -> Link:
        link = self._links.get(peer_id)
        if link is None:
            link = self._links[peer_id] = Link(peer_id, self.config.outbox)
            self._tasks.start_soon(self._run_link, link)
        return link

    def _unlink(self, peer_id: PeerId) -> None:
        link = self._links.get(peer_id)
        # It may be connected again by the time that this is read.
        if link is not None and self._host.path(peer_id) is None:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        del self._links[link.peer_id]
        link.scope.cancel()
        self._has_room(link)
        self._do(self._router.remove_peer(link.peer_id, trio.current_time()))

    def _add_peer(self, peer_id: PeerId, protocol: str) -> None:
        status = next((one for one in self._host.peers() if one.peer_id == peer_id), None)
        network: Hashable = None
        outbound = False
        if status is not None and status.connections:
            best = status.connections[0]
            outbound = best.direction is Direction.OUTBOUND
            ip = ip_of(best.addr)
            if ip is not None and relay_of(best.addr) is None and is_public_host(ip):
                network = network_of(ip)
        self._do(
            self._router.add_peer(
                peer_id,
                _VERSIONS.get(protocol, Version.V10),
                trio.current_time(),
                outbound=outbound,
                network=network,
            )
        )

    async def _connect(self, action: Connect) -> None:
        try:
            with trio.move_on_after(_CONNECT_TIMEOUT):
                told = open_record(action.record).addrs if action.record else ()
                addrs = believed(self._host, action.teller, action.peer_id, told)
                await self._host.connect(addrs or action.peer_id)
        except (LatticaError, OSError) as error:
            logger.debug("peer exchange: %s not reached: %s", action.peer_id, error)
        finally:
            self._connecting -= 1

    async def _keep_seeking(self, name: str) -> None:
        """Look for peers as long as there are too few, more and more seldom."""
        assert self._seek is not None
        failures = 0
        while True:
            if len(self._router.topic(name).peers) < self.config.mesh.low:
                failures += 1
                try:
                    with trio.move_on_after(_SEEK_TIMEOUT):
                        await self._seek(name)
                except (LatticaError, OSError) as error:
                    logger.debug("no peers of topic %r found: %s", name, error)
            else:
                failures = 1
            await trio.sleep(pause_after(failures, _SEEK_FIRST, _SEEK_LIMIT, self._rng))

    # --- sending ---

    async def _run_link(self, link: Link) -> None:
        failures = 0
        open_stream = self._open_stream or self._host.open_stream
        with link.scope:
            while not self._closed:
                began = trio.current_time()
                link.is_opening = True
                try:
                    async with await open_stream(link.peer_id, PROTOCOLS) as stream:
                        await self._drive(link, stream)
                    if link.reopen:
                        failures = 0
                        continue
                except UnsupportedProtocolError:
                    # Until it opens a stream to us: then it speaks it.
                    await link.wait_nudged(_RETRY_LIMIT)
                    continue
                except (LatticaError, OSError) as error:
                    logger.debug("no stream for topics: %s peer=%s", error, link.peer_id)
                finally:
                    link.is_opening = False
                    self._ended.unpark_all()
                now = trio.current_time()
                if link.down_since is None:
                    link.down_since = now
                failures = 1 if now - began > _RETRY_LIMIT else failures + 1
                await link.wait_nudged(pause_after(failures, _RETRY_FIRST, _RETRY_LIMIT, self._rng))

    async def _drive(self, link: Link, stream: Stream) -> None:
        """Send what there is for a peer until the stream fails or is to be replaced."""
        now = trio.current_time()
        known = link.peer_id in self._router.peers
        self._add_peer(link.peer_id, stream.protocol)
        if known and (names := [(name, True) for name in self._subscribers.topics]):
            link.outbox.control(encode_subscriptions(names))
        if link.down_since is not None:
            since, link.down_since = link.down_since - UNCERTAIN, None
            self._do(self._router.offer_missed(link.peer_id, since, now))
        link.progress_at, link.reopen, link.is_sending = now, False, True
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await stream.wait_gone()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                try:
                    await self._send(link, stream)
                except (LatticaError, OSError) as error:
                    logger.debug("a stream for topics broke: %s peer=%s", error, link.peer_id)
                nursery.cancel_scope.cancel()
        finally:
            link.is_sending = False
            self._ended.unpark_all()

    async def _send(self, link: Link, stream: Stream) -> None:
        outbox = link.outbox
        while True:
            while outbox:
                await stream.send_all(outbox.take())
                link.progress_at = trio.current_time()
                if link in self._full and outbox.size * 2 <= self.config.outbox:
                    self._has_room(link)
                if outbox.is_hopeless:
                    raise RemoteProtocolError("the peer does not take what it is told of topics")
            if link.reopen or self._closed:
                await stream.send_eof()
                await stream.wait_sent()
                return
            await link.wait_work()

    def _has_room(self, link: Link) -> None:
        self._full.discard(link)
        if link.stuck_since is not None:
            since, link.stuck_since = link.stuck_since - 1.0, None
            if link.peer_id in self._links:
                now = trio.current_time()
                self._do(self._router.offer_missed(link.peer_id, since, now))
        self._room.unpark_all()

    # --- receiving ---

    async def _serve(self, stream: Stream) -> None:
        """Read what a peer sends."""
        if self._closed or self._host.path(stream.peer_id) is None:
            return
        link, instance = self._link(stream.peer_id), stream.connection.instance
        if link.instance and instance and instance != link.instance:
            # The peer was started anew, and nobody may know yet that its old connection is lost.
            self._forget(link)
            link = self._link(stream.peer_id)
        link.instance = instance or link.instance
        link.take_inbound(stream)
        self._add_peer(stream.peer_id, stream.protocol)
        link.nudge()
        decoder = LengthPrefixed(MAX_RPC)
        piece = _SMALL_PIECE
        try:
            while data := await stream.receive_some(piece):
                rpcs = decoder.feed(data)
                piece = _PIECE if len(rpcs) <= _FEW else _SMALL_PIECE
                for rpc in rpcs:
                    if len(rpc) > _LONG and not is_lone_message(rpc):
                        # It may list thousands of things, and so may those on other streams.
                        await stream.connection.charge("topics", 0)
                    self._do(self._router.receive(stream.peer_id, rpc, trio.current_time()))
                    await self._charge(stream)
                if self._subscribers.hold_up:
                    await self._subscribers.wait_for_room()
        except RemoteProtocolError:
            self._router.breach(stream.peer_id, trio.current_time())
            raise
        finally:
            if stream in link.inbound:
                link.inbound.remove(stream)

    async def _charge(self, stream: Stream) -> None:
        """A peer that says much beside messages is read less."""
        peer = self._router.peers.get(stream.peer_id)
        if peer is not None and peer.nuisance >= _CHARGED:
            cost, peer.nuisance = int(peer.nuisance), 0.0
            await stream.connection.charge("topics", cost)

    # --- time ---

    async def _beat(self) -> None:
        interval = self.config.mesh.heartbeat
        # Nodes that start together need not beat together.
        due = trio.current_time() + interval * self._rng.random()
        while True:
            await trio.sleep_until(due)
            self._do(self._router.heartbeat(trio.current_time()))
            if self._full:
                self._room.unpark_all()  # for those who wait for a peer that is stuck by now
            due = max(due + interval, trio.current_time())
