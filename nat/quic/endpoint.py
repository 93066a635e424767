"""One UDP socket with all the QUIC connections on it, in both directions.

Listening and dialing share the socket, so the mapping that a NAT made for one serves the
other, and a packet that a peer sends to punch a hole opens it for QUIC. Who gets a datagram is
decided in :meth:`QuicEndpoint._deliver`: packets find their connection by its ID (RFC 9000,
section 5.1), whatever address they come from; what is not QUIC (RFC 9443) goes to whoever asked
for it.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.quic.first_packet import FirstPackets, NewClient
from lattica.nat.quic.handshake import QuicHandshake
from lattica.nat.quic.link import QuicLink, multiaddr_of
from lattica.nat.quic.path.packet_size import is_size_message
from lattica.nat.quic.path.peer_path import connection_id as path_connection_id
from lattica.nat.quic.path.peer_path import is_path_message
from lattica.nat.quic.path.pieces import is_piece
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE
from lattica.nat.quic.qh3.packets import FIXED_BIT, LONG_HEADER, destination_cid
from lattica.nat.quic.stateless_reset import ResetSender, token_of
from lattica.nat.transport.udp_socket import Address, Received, Unreachable

logger = logging.getLogger(__name__)

_BACKLOG = 1024
"""Connections that have begun and that nobody has accepted yet."""
_FOREIGN_BUFFER = 64
_FAREWELLS = 512
"""Closed connections whose peers may still ask what has become of them."""
_FAREWELL_REPEATS = 8
_AMPLIFICATION = 3
"""Bytes that a stranger's byte may be answered with (RFC 9000, section 8)."""
_FORM = FIXED_BIT | LONG_HEADER
"""What tells a short header from a long one and from what is not QUIC."""


class DatagramSocket(Protocol):
    """What an endpoint needs of its socket; the contracts are those of
    :class:`~lattica.nat.transport.udp_socket.UdpSocket`."""

    @property
    def local(self) -> Address: ...
    @property
    def family(self) -> int: ...
    async def receive(self) -> list[Received]: ...
    def send(self, datagrams: Sequence[bytes], destination: Address) -> int: ...
    async def wait_writable(self) -> None: ...
    def take_unreachable(self) -> list[Unreachable]: ...
    def close(self) -> None: ...


class Foreign(NamedTuple):
    """A datagram that is not QUIC: a hole-punching probe, a STUN message."""

    data: bytes
    source: Address


class _Farewell:
    """What to answer to packets of a connection that this side has closed."""

    __slots__ = ("datagram", "left")

    def __init__(self, datagram: bytes) -> None:
        self.datagram = datagram
        self.left = _FAREWELL_REPEATS


class QuicEndpoint:
    """A socket that QUIC connections share. :meth:`run` receives for all of them.

    After :meth:`listen` it is a :class:`~lattica.nat.transport.base.Listener` too.
    `first_packets` is shared by the endpoints of a node. `resets`: what is answered to packets of
    connections that nobody here knows; None: nothing. `sole`: it is there for one connection, and
    ends with it.
    """

    def __init__(
        self,
        sock: DatagramSocket,
        first_packets: FirstPackets,
        *,
        resets: ResetSender | None = None,
        sole: bool = False,
    ) -> None:
        self._sock = sock
        self.sole = sole
        self._first_packets = first_packets
        self._make_link: Callable[[NewClient], QuicLink] | None = None
        self._links: dict[bytes, QuicLink] = {}
        """By all the connection IDs that peers may use."""
        self._farewells: OrderedDict[bytes, _Farewell] = OrderedDict()
        self._arrivals_in, self._arrivals = trio.open_memory_channel[QuicLink](_BACKLOG)
        self._strangers: dict[tuple[str, int], set[QuicLink]] = {}
        """By host and port, links whose peer has not proved who it is."""
        self._admitted: dict[QuicLink, tuple[int, bytes]] = {}
        """Those of them that clients began: the ticket of their admission, and the ID that the
        client made up."""
        self._resets = resets
        self._by_token: dict[bytes, QuicLink] = {}
        """By what the peer's stateless resets end in."""
        self._foreign: set[trio.MemorySendChannel[Foreign]] = set()
        self._writable: trio.Event | None = None
        self._closed = False

    @property
    def local(self) -> Address:
        """The bound host and port."""
        return self._sock.local

    @property
    def family(self) -> int:
        return self._sock.family

    @property
    def reset_token_of(self) -> Callable[[bytes], bytes] | None:
        """Makes the token of this socket's stateless resets for a connection ID; None: it sends
        none."""
        return None if self._resets is None else self._resets.token

    @property
    def listens(self) -> bool:
        """It accepts connections."""
        return self._make_link is not None

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        return (multiaddr_of(self.local),)

    # --- receiving ---

    async def run(self) -> None:
        """Receive for all connections until :meth:`close`."""
        sock = self._sock
        while not self._closed:
            try:
                batch = await sock.receive()
            except trio.ClosedResourceError:
                return
            for received in batch:
                try:
                    self._deliver(received)
                except Exception as defect:  # it costs these datagrams, not the node
                    peer_log.log(
                        logger,
                        logging.ERROR,
                        received.source[0],
                        "datagrams dropped: internal error addr=%s",
                        received.source,
                        exc_info=defect,
                    )
            for destination, number in sock.take_unreachable():
                error = OSError(number, os.strerror(number))
                for link in self._strangers.get(destination[:2], ()):
                    link.deliver_unreachable(error)

    def _deliver(self, received: Received) -> None:
        """Give what has come to whom it is for."""
        _, size, source = received
        for key, data in _by_connection_id(received):
            if key is None:
                for offset in range(0, len(data), size):
                    self._deliver_foreign(data[offset : offset + size], source)
            elif link := self._links.get(key):
                link.deliver(data, size, source)
            elif farewell := self._farewells.get(key):
                self._repeat(farewell, len(data), source)
            elif not data[0] & LONG_HEADER:
                self._deliver_unknown(key, data, size, source)
            elif self._make_link is not None and (link := self._begin(data[:size], source)):
                link.deliver(data, size, source)
                self._offer(link)

    def _deliver_unknown(self, key: bytes, data: bytes, size: int, source: Address) -> None:
        """Packets of a connection that nobody here knows, or a peer that says so of one of ours."""
        for offset in range(0, len(data), size) if self._by_token else ():
            token = token_of(data[offset : offset + size])
            if token is not None and (link := self._by_token.get(token)):
                link.deliver_reset()
                return
        if self._resets is not None and len(key) == CONNECTION_ID_SIZE:
            reset = self._resets.answer(key, min(size, len(data)), trio.current_time())
            if reset is not None:
                self._sock.send([reset], source)

    def _deliver_foreign(self, datagram: bytes, source: Address) -> None:
        """Something that is not QUIC: about a connection's path, or for who asked for it."""
        if link := self._links.get(path_connection_id(datagram)):
            if is_piece(datagram):
                link.deliver_piece(datagram, source)
                return
            if is_path_message(datagram) or is_size_message(datagram):
                link.deliver_path_message(datagram, source)
                return
        for channel in self._foreign:
            with suppress(trio.WouldBlock):  # like a datagram that the network loses
                channel.send_nowait(Foreign(datagram, source))

    def _repeat(self, farewell: _Farewell, size: int, source: Address) -> None:
        # The source may be forged: what it is sent must not be much more than it costs.
        if farewell.left and len(farewell.datagram) <= _AMPLIFICATION * size:
            farewell.left -= 1
            self._sock.send([farewell.datagram], source)

    def _begin(self, datagram: bytes, source: Address) -> QuicLink | None:
        """The connection that a stranger's packet begins, if it does and may."""
        assert self._make_link is not None
        decision = self._first_packets.receive(datagram, source)
        if isinstance(decision, bytes):
            self._sock.send([decision], source)
        if not isinstance(decision, NewClient):
            return None
        link = self._make_link(decision)
        ticket = self._first_packets.admission.begin(source)
        self._admitted[link] = (ticket, decision.first_cid)
        self._links[decision.first_cid] = link
        self.add(link)
        return link

    def _offer(self, link: QuicLink) -> None:
        """Have a connection accepted that has begun."""
        if link.failure is None:
            with suppress(trio.WouldBlock):
                self._arrivals_in.send_nowait(link)
                return
        link.abort()

    # --- connections ---

    def add(self, link: QuicLink) -> None:
        """Deliver to a link from now on, until it ends."""
        self._strangers.setdefault(link.first_address[:2], set()).add(link)
        self.on_connection_ids(link)

    def on_connection_ids(self, link: QuicLink) -> None:
        added, retired = link.session.take_connection_ids()
        for cid in added:
            self._links[cid] = link
        for cid in retired:
            self._links.pop(cid, None)
        token = link.session.peer_reset_token
        if token is not None:
            self._by_token.setdefault(token, link)

    def on_authenticated(self, link: QuicLink) -> None:
        self._end_handshake(link)

    def _end_handshake(self, link: QuicLink) -> None:
        """It is no stranger's any more, or over."""
        if link in self._admitted:
            ticket, first_cid = self._admitted.pop(link)
            self._first_packets.admission.finish(ticket)
            self._links.pop(first_cid, None)
        place = link.first_address[:2]
        if links := self._strangers.get(place):
            links.discard(link)
            if not links:
                del self._strangers[place]

    def on_end(self, link: QuicLink, farewell: bytes | None) -> None:
        self._end_handshake(link)
        _, retired = link.session.take_connection_ids()
        for cid in (*link.session.connection_ids, *retired):
            if self._links.pop(cid, None) is not None and farewell is not None:
                self._farewells[cid] = _Farewell(farewell)
        token = link.session.peer_reset_token
        if token is not None and self._by_token.get(token) is link:
            del self._by_token[token]
        while len(self._farewells) > _FAREWELLS:
            self._farewells.popitem(last=False)
        if self.sole:
            self.close()

    # --- sending ---

    def send(self, datagrams: Sequence[bytes], destination: Address) -> int:
        """Send without waiting; return how many were taken."""
        return 0 if self._closed else self._sock.send(datagrams, destination)

    async def wait_writable(self) -> None:
        """Wait until the socket may take more; any number of connections may wait."""
        if self._writable is not None:
            await self._writable.wait()
            return
        self._writable = event = trio.Event()
        try:
            await self._sock.wait_writable()
        finally:
            self._writable = None
            event.set()

    # --- what is not QUIC ---

    def send_probe(self, data: bytes, destination: Address) -> None:
        """Send a datagram that is not QUIC, as hole punching and STUN do.

        Like any datagram it may be lost, also on this machine.

        Raises:
            LocalProtocolError: for data that could be taken for QUIC.
        """
        if not data or data[0] & FIXED_BIT:
            raise LocalProtocolError("a probe's first byte must not look like QUIC's (RFC 9443)")
        self.send([data], destination)

    @contextmanager
    def foreign(self) -> Iterator[trio.MemoryReceiveChannel[Foreign]]:
        """What arrives that is not QUIC, with the address it came from.

        At most 64 datagrams wait; what comes while nobody takes them is lost.
        """
        sender, receiver = trio.open_memory_channel[Foreign](_FOREIGN_BUFFER)
        self._foreign.add(sender)
        try:
            yield receiver
        finally:
            self._foreign.discard(sender)
            sender.close()
            receiver.close()

    # --- life ---

    def listen(self, make_link: Callable[[NewClient], QuicLink]) -> None:
        """Accept connections from now on; `make_link` makes the server's side of one."""
        self._make_link = make_link

    async def accept(self) -> QuicHandshake:
        """Wait for the next connection; it is not authenticated yet."""
        try:
            return QuicHandshake(await self._arrivals.receive())
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the listener was closed") from None

    async def aclose(self) -> None:
        """Accept no more; connections go on."""
        self._make_link = None
        self._arrivals_in.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the socket. Connections that still use it fail."""
        for link in set(self._links.values()):
            link.abort()
        self._closed = True
        self._arrivals_in.close()
        self._sock.close()


def _by_connection_id(received: Received) -> list[tuple[bytes | None, bytes]]:
    """Cut what came together into runs with one connection ID; None: it is not QUIC."""
    data, size, _ = received
    end = len(data)
    key = destination_cid(data, 0)
    if size >= end:
        return [(key, data)]
    runs = []
    start = 0
    for offset in range(size, end, size):
        # Nearly all have a short header, and go where the one before goes.
        at = offset + 1
        if data[at : at + CONNECTION_ID_SIZE] == key and data[offset] & _FORM == FIXED_BIT:
            continue
        next_key = destination_cid(data, offset)
        if next_key != key:
            runs.append((key, data[start:offset]))
            start, key = offset, next_key
    runs.append((key, data[start:] if start else data))
    return runs
