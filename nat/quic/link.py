"""One QUIC connection on a socket that it shares: the pump that moves its packets.

The socket's owner delivers what arrives at once; whoever owns the link pumps: first
:class:`~lattica.nat.quic.handshake.QuicHandshake`, then the
:class:`~lattica.nat.quic.connection.QuicConnection`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from lattica.nat.base.errors import ConnectionClosedError, RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.base.net.addresses import socket_multiaddr
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.delivery import Delivery
from lattica.nat.mux.events import Event
from lattica.nat.mux.stream import Waiter
from lattica.nat.mux.turns import TURN, Turnstile
from lattica.nat.quic.path.packet_size import ANSWER, PROBE, PacketSize
from lattica.nat.quic.path.peer_path import CHALLENGE, PeerPath
from lattica.nat.quic.path.pieces import Cutter, Joiner
from lattica.nat.quic.qh3.native import Runs
from lattica.nat.quic.qh3.packets import short_destination_cid
from lattica.nat.quic.session.session import QuicSession
from lattica.nat.transport.udp_socket import Address

logger = logging.getLogger(__name__)

_HEARD = 4.0
"""Seconds since the peer's last packet for which it counts as alive: two pings' time."""
_AT_ONCE = 64
_AT_FIRST = 8
_INBOX = 64
"""Batches of datagrams, of 64 KiB at most, that wait for a connection's next turn."""
_STRANGERS_INBOX = 128 * 1024
"""Bytes of them as long as nobody has proved who it is: a handshake has a few KiB."""
_PATH_MESSAGES, _PATH_MESSAGES_A_SECOND = 256, 128
"""Of a connection, at once and from then on: they are outside QUIC, and so of its turns. A test of
the path's size has nine, a move six."""
_PATH_LABEL = b"lattica-quic/1 path "
NO_ERROR, PROTOCOL_ERROR = 0, 1
"""Codes of CONNECTION_CLOSE."""


class Carrier(Protocol):
    """What a link needs of the socket's owner."""

    @property
    def local(self) -> Address:
        """The bound host and port."""
        ...

    def send(self, datagrams: Sequence[bytes], destination: Address) -> int:
        """Send without waiting; return how many were taken."""
        ...

    async def wait_writable(self) -> None:
        """Wait until :meth:`send` may take more."""
        ...

    def on_connection_ids(self, link: QuicLink) -> None:
        """The IDs by which the peer addresses the connection may have changed."""
        ...

    def on_authenticated(self, link: QuicLink) -> None:
        """The peer has proved who it is."""
        ...

    def on_end(self, link: QuicLink, farewell: bytes | None) -> None:
        """The connection is over; `farewell` is what its peer is told if it asks again."""
        ...


class QuicLink:
    """Moves the datagrams of one session, and follows its peer."""

    __slots__ = (
        "_at_once",
        "_carrier",
        "_cutter",
        "_early",
        "_ended",
        "_inbox",
        "_joiner",
        "_path",
        "_path_messages",
        "_peer_cid",
        "_size",
        "_waiter",
        "_work",
        "failure",
        "first_address",
        "on_address",
        "on_events",
        "session",
        "turnstile",
    )

    def __init__(
        self, carrier: Carrier, peer: Address, session: QuicSession, turnstile: Turnstile
    ) -> None:
        self._carrier = carrier
        self.turnstile = turnstile
        session.turn = TURN
        self._inbox: deque[tuple[bytes, int, Address]] = deque()
        """What has come while it was the others' turn."""
        self._at_once = _AT_FIRST
        """Datagrams that the session takes in one call: fewer when they are full of frames."""
        # The address that qh3 knows of, whatever happens: following the peer is not its job.
        self.first_address = peer
        self.session = session
        self._path: PeerPath | None = None
        self._path_messages = TokenBucket(_PATH_MESSAGES, _PATH_MESSAGES_A_SECOND)
        self._size: PacketSize | None = None
        self._cutter = Cutter()
        self._joiner = Joiner(session.budget, trio.current_time)
        self._peer_cid = b""
        self.failure: Exception | None = None
        """What the peer or the network did; the connection is over."""
        self.on_events: Callable[[list[Event]], None] | None = None
        self.on_address: Callable[[Address | None], None] | None = None
        """Told where the peer is: when it has proved who it is, when it has moved, and None at
        the end."""
        self._early: list[Event] = []
        self._waiter = Waiter()
        self._work = True
        self._ended = False

    @property
    def destination(self) -> Address:
        """Where the peer is now."""
        return self.first_address if self._path is None else self._path.address

    @property
    def local_addr(self) -> Multiaddr:
        return multiaddr_of(self._carrier.local)

    @property
    def remote_addr(self) -> Multiaddr:
        return multiaddr_of(self.destination)

    # --- what comes in: for the socket's owner ---

    def deliver(self, data: bytes, size: int, source: Address) -> None:
        """Take datagrams of `size` bytes each (the last may be shorter).

        What exceeds this connection's turn waits for the next one, and what exceeds that is lost,
        as datagrams may be.
        """
        if self.failure is not None:
            return
        if not self._inbox and not self._is_stranger:
            data = self._receive(data, size, source)
        if data and len(self._inbox) < _INBOX and self._has_room(len(data)):
            self._inbox.append((data, size, source))
        self.wake()

    def _has_room(self, size: int) -> bool:
        if not self._is_stranger:
            return True
        return size + sum(len(data) for data, _, _ in self._inbox) <= _STRANGERS_INBOX

    def _receive(self, data: bytes, size: int, source: Address) -> bytes:
        """Let the session have datagrams as long as its turn lasts; return what is left of them."""
        session = self.session
        position = 0
        while position < len(data) and self._may_receive:
            before = session.turn
            end = position + self._at_once * size
            piece = data[position:end] if position or end < len(data) else data
            position = end
            try:
                events = session.receive(piece, size, self.first_address)
                if self._path is not None and session.heard:
                    self._path.observe(source)
                self._report(events)
            except Exception as error:  # a defect of ours costs this connection, not the endpoint
                self._fail(error)
            work = before - session.turn
            if work > TURN:
                self._at_once = max(1, self._at_once // 8)
            elif work < TURN // 4:
                self._at_once = min(_AT_ONCE, self._at_once * 2)
        return data[position:]

    @property
    def _rests_until(self) -> float | None:
        return self.session.nuisance.rests_until

    @property
    def _may_receive(self) -> bool:
        return self.session.turn > 0 and self.failure is None and self._rests_until is None

    @property
    def _is_stranger(self) -> bool:
        """Somebody who has begun, and whose handshake takes a while."""
        return self.session.remote is None and not self.session.is_client

    async def _next_turn(self) -> None:
        """Give the session another turn, and with it what waits for that."""
        session = self.session
        if self._inbox and (session.turn <= 0 or self._is_stranger):
            await self.turnstile.wait(session.source.network)
        session.turn = TURN
        while self._inbox and self._may_receive:
            data, size, source = self._inbox.popleft()
            if left := self._receive(data, size, source):
                self._inbox.appendleft((left, size, source))
        self._work = self._work or (bool(self._inbox) and self._rests_until is None)

    def deliver_path_message(self, message: bytes, source: Address) -> None:
        """Take a message of :mod:`lattica.nat.quic.path.peer_path` or `….packet_size`; of too many
        the rest is lost.
        """
        path, size = self._path, self._size
        if path is None or size is None or not self._peer_cid:
            return
        if not take((self._path_messages,), 1, trio.current_time()):
            return
        if message[0] == CHALLENGE:
            self._carrier.send([path.answer(message, self._peer_cid)], source)
        elif message[0] == PROBE:
            self._carrier.send([size.answer(message, self._peer_cid)], source)
        elif message[0] == ANSWER:
            size.receive_answer(message)
            self.wake()
        elif path.receive_response(message, source):
            size.moved()
            self._tell_address(source)
            self.wake()

    def deliver_reset(self) -> None:
        """The peer says that it knows nothing of the connection, and has proved that it is it."""
        if self.failure is None:
            self.session.note_reset()
            self.failure = ConnectionClosedError(
                "the peer was started anew, and knows nothing of the connection"
            )
            self.wake()

    def deliver_piece(self, piece: bytes, source: Address) -> None:
        """Take a part of a datagram (:mod:`lattica.nat.quic.path.pieces`)."""
        if self._path is None or self.failure is not None:
            return
        waited = self._joiner.size
        if datagram := self._joiner.receive(piece):
            self.deliver(datagram, len(datagram), source)
        elif self._joiner.size and not waited:
            self.wake()  # there is a timer now

    def deliver_unreachable(self, error: OSError) -> None:
        """The network says that nobody is there; said only of strangers."""
        if self.session.remote is None and self.failure is None:
            self.failure = error
            self.wake()

    def _fail(self, error: Exception) -> None:
        # Its frames would hold this link for as long as it holds them.
        self.failure = error.with_traceback(None)
        if isinstance(error, RemoteProtocolError):
            self.session.shut(PROTOCOL_ERROR, str(error)[:80])

    def _report(self, events: list[Event]) -> None:
        if self.on_events is not None:
            self.on_events(events)
        else:
            self._early += events

    # --- what goes out: for whoever pumps ---

    def wake(self) -> None:
        """There may be something to send, or something has happened."""
        self._work = True
        self._waiter.wake()

    async def pump(self) -> None:
        """Send what is due; if that is nothing, wait for work or the next timer."""
        session = self.session
        if not self._work and not session.wants_write:
            with trio.move_on_at(self._next_timer()):
                await self._waiter.wait()
        else:
            await trio.lowlevel.checkpoint()
        self._work = False
        await self._next_turn()
        self._try_sizes()
        self._joiner.expire()
        deadline = session.next_timer()
        if deadline is not None and deadline <= trio.current_time():
            try:
                self._report(session.on_timer())
            except RemoteProtocolError as error:
                self._fail(error)
        for datagrams, _ in self._transmit():
            self._peer_cid = short_destination_cid(datagrams[0]) or self._peer_cid
            await self._send(datagrams)
        if self._path is not None and (challenge := self._path.challenge(self._peer_cid)):
            self._carrier.send([challenge[0]], challenge[1])
        if not self._ended:
            self._carrier.on_connection_ids(self)

    def _transmit(self) -> Runs:
        try:
            return self.session.transmit()
        except ConnectionClosedError as error:
            self._fail(error)
        return []

    def _try_sizes(self) -> None:
        size = self._size
        if size is None:
            return
        before = size.limit
        if self.session.loses_packets:
            size.suspect(self.session.datagram_size)
        for probe in size.probes(self._peer_cid, self.session.rtt):
            self._carrier.send([probe], self.destination)
        if size.limit != before:
            logger.info("the path carries datagrams of %s bytes now addr=%s",
                        size.limit or "all", self.remote_addr)  # fmt: skip

    def delivery(self) -> Delivery | None:
        """Whether what is sent arrives; None while nobody has reason to ask."""
        size = self._size
        if size is None:
            return None
        # A peer that says nothing at all may be busy; for how long, keep-alive decides.
        heard = trio.current_time() - self.session.last_received < _HEARD
        return Delivery(size.dead and heard, size.answers)

    def _next_timer(self) -> float:
        timers = [self.session.next_timer(), self._rests_until if self._inbox else None]
        if self._path is not None:
            timers.append(self._path.next_timer())
        if self._size is not None:
            timers.append(self._size.next_timer())
            timers.append(self._joiner.next_timer())
        return min((timer for timer in timers if timer is not None), default=math.inf)

    async def _send(self, datagrams: list[bytes]) -> None:
        if self._size is not None and self._size.limit is not None:
            # The small ones too: pieces among others would be taken for QUIC's packets below.
            datagrams = self._cutter.cut(datagrams, self._peer_cid, self._size.limit)
        sent = self._carrier.send(datagrams, self.destination)
        while sent < len(datagrams):
            await self._carrier.wait_writable()
            sent += self._carrier.send(datagrams[sent:], self.destination)

    # --- life ---

    def follow_peer(self) -> None:
        """The peer has proved who it is; from now on it may move."""
        session = self.session
        keys = [session.export(_PATH_LABEL + side) for side in (b"client", b"server")]
        if not session.is_client:
            keys.reverse()
        self._path = PeerPath(
            self.first_address,
            sending_key=keys[0],
            receiving_key=keys[1],
            clock=trio.current_time,
        )
        self._size = PacketSize(sending_key=keys[0], receiving_key=keys[1], clock=trio.current_time)
        self._carrier.on_authenticated(self)
        self._tell_address(self.first_address)

    def _tell_address(self, address: Address | None) -> None:
        if self.on_address is not None:
            self.on_address(address)

    def take_early(self, on_events: Callable[[list[Event]], None]) -> None:
        """From now on `on_events` is told what happens, beginning with what has happened."""
        self.on_events = on_events
        early, self._early = self._early, []
        on_events(early)

    def abort(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Close at once: tell the peer, and let go of the socket. Idempotent."""
        if self._ended:
            return
        self._ended = True
        farewell = None
        self.session.shut(code, reason)
        for datagrams, _ in self.session.transmit():
            self._carrier.send(datagrams, self.destination)
            farewell = datagrams[-1]
        self._tell_address(None)
        self._carrier.on_end(self, farewell)
        self.session.let_go()
        self.on_events, self.on_address = _ignore, None
        self._inbox.clear()
        self._joiner.clear()
        if self.failure is None:
            self.failure = ConnectionClosedError("closed by this side")
        self.wake()


def _ignore(events: list[Event]) -> None:
    """The connection is over; whoever held it was told."""


def multiaddr_of(name: Address) -> Multiaddr:
    """The multiaddr of a socket name."""
    return socket_multiaddr(name, "udp/{}/quic-v1/noise")
