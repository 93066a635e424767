"""One UDP socket with all the QUIC connections on it, in both directions.

Listening and dialing share the socket, so the mapping that a NAT made for one serves the
other, and a packet that a peer sends to punch a hole opens it for QUIC. Packets find their
connection by its ID (RFC 9000, section 5.1), whatever address they come from; what is not
QUIC (RFC 9443) goes to whoever asked for it.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import NamedTuple

import trio
from multiaddr.multiaddr import Multiaddr
from qh3._hazmat import pull_quic_header
from qh3.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.quic.admission import Admission, AdmissionControl, RetryTokens
from lattica.nat.quic.fec.codec import is_fec, unprotected
from lattica.nat.quic.fec.shim import Shim
from lattica.nat.quic.link import LONG_HEADER, QuicLink, multiaddr_of
from lattica.nat.quic.path import connection_id as path_connection_id
from lattica.nat.quic.path import is_path_message
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE, MIN_DATAGRAM
from lattica.nat.transport.udp_socket import Address, Received, UdpSocket

logger = logging.getLogger(__name__)

_FIXED_BIT = 0x40
_BACKLOG = 1024
"""Connections that have begun and that nobody has accepted yet."""
_FOREIGN_BUFFER = 64
_FAREWELLS = 512
"""Closed connections whose peers may still ask what has become of them."""
_FAREWELL_REPEATS = 8
_AMPLIFICATION = 3
"""Bytes that a stranger's byte may be answered with (RFC 9000, section 8)."""
_SHORTEST_FIRST_CID = 8
"""Of what a client makes up as our connection ID, bytes (RFC 9000, section 7.2)."""

AcceptLink = Callable[["QuicEndpoint", Address, bytes, bytes | None, int], QuicLink]
"""Makes the server's side of a connection: (endpoint, client, original destination ID, Retry
source ID, size of the first datagram)."""


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

    With `accept_link` it is a :class:`~lattica.nat.transport.base.Listener` too.
    """

    def __init__(
        self,
        sock: UdpSocket,
        *,
        admission: AdmissionControl,
        tokens: RetryTokens,
        accept_link: AcceptLink | None = None,
        sole: bool = False,
    ) -> None:
        self._sock = sock
        self.sole = sole
        """It is there for one connection, and ends with it."""
        self._admission = admission
        self._tokens = tokens
        self._accept_link = accept_link
        self._links: dict[bytes, QuicLink] = {}
        self._farewells: OrderedDict[bytes, _Farewell] = OrderedDict()
        self._arrivals_in, self._arrivals = trio.open_memory_channel[QuicLink](_BACKLOG)
        self._shims: dict[Address, Shim] = {}
        self._strangers: dict[tuple[str, int], set[QuicLink]] = {}
        """By host and port, links whose peer has not proved who it is."""
        self._foreign: set[trio.MemorySendChannel[Foreign]] = set()
        self._writable: trio.Event | None = None
        self._closed = False

    @property
    def local(self) -> tuple[str, int]:
        """The bound host and port."""
        return self._sock.local

    @property
    def family(self) -> int:
        return self._sock.family

    @property
    def listens(self) -> bool:
        """It accepts connections."""
        return self._accept_link is not None

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        return (multiaddr_of(self.local),)

    # --- receiving ---

    async def run(self) -> None:
        """Receive for all connections until :meth:`close`."""
        while not self._closed:
            sock = self._sock
            try:
                batch = await sock.receive()
            except trio.ClosedResourceError:
                continue  # closed, or replaced by rebind()
            for received in batch:
                try:
                    self._route(received)
                except Exception:  # a defect of ours costs these datagrams, not the node
                    logger.exception("datagrams dropped: internal error addr=%s", received.source)
            for destination, number in sock.take_unreachable():
                error = OSError(number, os.strerror(number))
                for link in self._strangers.get(destination[:2], ()):
                    link.on_unreachable(error)

    def _route(self, received: Received) -> None:
        """Cut what arrived together into what belongs to one connection."""
        data, size, source = received
        if len(source) == 4 and not source[3]:  # an IPv6 address without a zone
            source = source[:2]
        shim = self._shims.get(source)
        if shim is not None and shim.holds:
            self._restore(shim, data, size, source)
            return
        end = len(data)
        start, key = 0, _connection_id(data, 0)
        for offset in range(size, end, size):
            next_key = _connection_id(data, offset)
            if next_key != key:
                self._dispatch(data[start:offset], size, source, key)
                start, key = offset, next_key
        self._dispatch(data[start:] if start else data, size, source, key)

    def _dispatch(self, data: bytes, size: int, source: Address, key: bytes | None) -> None:
        """Hand datagrams with one connection ID to whom they are for."""
        if key is None:
            shim = self._shims.get(source)
            if shim is not None:
                self._restore(shim, data, size, source)
                return
            for offset in range(0, len(data), size):
                datagram = data[offset : offset + size]
                if is_fec(datagram):
                    self._restore_stranger(datagram, source)
                else:
                    self._on_foreign(datagram, source)
            return
        link = self._links.get(key)
        if link is None:
            # Only its first datagram can begin a connection, and make the link for the others.
            self._on_unknown(data[:size], source, key)
            link, data = self._links.get(key), data[size:]
        if link is not None and data:
            link.deliver(data, size, source)

    def _restore(self, shim: Shim, data: bytes, size: int, source: Address) -> None:
        """Pass what an address sends through its shim."""
        restored: list[bytes] = []
        held = shim.holds
        for offset in range(0, len(data), size):
            datagram = data[offset : offset + size]
            if datagram[0] & _FIXED_BIT or is_fec(datagram):
                with suppress(RemoteProtocolError):  # lost, like what the network garbles
                    restored += shim.receive(datagram)
            else:
                self._on_foreign(datagram, source)
        self.deliver_restored(restored, source)
        if report := shim.report():
            self._sock.send([report], source)
        if shim.holds and not held:
            for link in shim.users:
                link.wake()  # asleep until a timer that was set before there was a gap

    def _restore_stranger(self, datagram: bytes, source: Address) -> None:
        """Take a protected datagram from where no connection's peer is known to be.

        A peer that has moved protects what it sends as before, and shows by that where it is
        now. What is in the datagram is for the connection to judge.
        """
        with suppress(RemoteProtocolError):
            if (payload := unprotected(datagram)) is not None:
                self.deliver_restored([payload], source)

    def deliver_restored(self, datagrams: Sequence[bytes], source: Address) -> None:
        """Hand QUIC datagrams that were protected on their way to their connections."""
        for key, run in groupby(datagrams, lambda datagram: _connection_id(datagram, 0)):
            link = self._links.get(key) if key is not None else None
            if link is not None:
                link.deliver_each(list(run), source)

    def _on_foreign(self, datagram: bytes, source: Address) -> None:
        if is_path_message(datagram):
            link = self._links.get(path_connection_id(datagram))
            if link is not None:
                link.on_path_message(datagram, source)
                return
        for channel in self._foreign:
            with suppress(trio.WouldBlock):  # like a datagram that the network loses
                channel.send_nowait(Foreign(datagram, source))

    def _on_unknown(self, datagram: bytes, source: Address, key: bytes) -> None:
        farewell = self._farewells.get(key)
        if farewell is not None:
            # The source may be forged: what it is sent must not be much more than it costs.
            if farewell.left and len(farewell.datagram) <= _AMPLIFICATION * len(datagram):
                farewell.left -= 1
                self._sock.send([farewell.datagram], source)
            return
        if self._accept_link is None or not datagram[0] & LONG_HEADER:
            return
        try:
            header = pull_quic_header(datagram, 0, CONNECTION_ID_SIZE)
        except ValueError:
            return
        version, kind, _, destination_cid, source_cid, token, *_ = header
        if len(datagram) < MIN_DATAGRAM:
            return  # nothing is answered to what costs its sender less than the answer
        if version != QuicProtocolVersion.VERSION_1:
            if version is not None and version != QuicProtocolVersion.NEGOTIATION:
                answer = encode_quic_version_negotiation(
                    source_cid=destination_cid,
                    destination_cid=source_cid,
                    supported_versions=[QuicProtocolVersion.VERSION_1],
                )
                self._sock.send([answer], source)
            return
        if kind == QuicPacketType.INITIAL:
            self._on_first(datagram, source, destination_cid, source_cid, token)

    def _on_first(
        self, datagram: bytes, source: Address, destination_cid: bytes, source_cid: bytes,
        token: bytes,
    ) -> None:  # fmt: skip
        """A client's first packet."""
        assert self._accept_link is not None
        if len(destination_cid) < _SHORTEST_FIRST_CID:
            return
        original_cid, retry_cid = destination_cid, None
        proof = self._tokens.validate(source, token) if token else None
        if proof is not None and proof[1] == destination_cid:
            original_cid, retry_cid = proof
        admission = self._admission.decide(source, validated=retry_cid is not None)
        if admission is Admission.RETRY:
            retry_source = os.urandom(CONNECTION_ID_SIZE)
            answer = encode_quic_retry(
                version=QuicProtocolVersion.VERSION_1,
                source_cid=retry_source,
                destination_cid=source_cid,
                original_destination_cid=destination_cid,
                retry_token=self._tokens.create(source, destination_cid, retry_source),
            )
            self._sock.send([answer], source)
        elif admission is Admission.ACCEPT:
            link = self._accept_link(self, source, original_cid, retry_cid, len(datagram))
            self._links[destination_cid] = link
            self.add_stranger(link)
            link.begin_admission(self._admission, destination_cid)
            link.deliver(datagram, len(datagram), source)
            self.update_routes(link)
            if link.failure is not None:
                link.abort()
                return
            try:
                self._arrivals_in.send_nowait(link)
            except trio.WouldBlock:
                link.abort()

    # --- connections ---

    def update_routes(self, link: QuicLink) -> None:
        """Learn which connection IDs of a connection have come and gone."""
        if link.ended:
            return
        added, retired = link.session.take_connection_ids()
        for cid in added:
            self._links[cid] = link
        for cid in retired:
            self._links.pop(cid, None)

    def remove_route(self, cid: bytes) -> None:
        self._links.pop(cid, None)

    def add_stranger(self, link: QuicLink) -> None:
        """Its peer has not proved who it is: tell it if the network says that nobody is there."""
        self._strangers.setdefault(link.first_address[:2], set()).add(link)

    def remove_stranger(self, link: QuicLink) -> None:
        links = self._strangers.get(link.first_address[:2])
        if links is not None:
            links.discard(link)
            if not links:
                del self._strangers[link.first_address[:2]]

    def forget(self, link: QuicLink, farewell: bytes | None) -> None:
        """A connection is over; `farewell` is what its peer is told if it asks again."""
        self.remove_stranger(link)
        _, retired = link.session.take_connection_ids()
        for cid in (*link.session.connection_ids, *retired):
            if self._links.pop(cid, None) is not None and farewell is not None:
                self._farewells[cid] = _Farewell(farewell)
        while len(self._farewells) > _FAREWELLS:
            self._farewells.popitem(last=False)
        if self.sole:
            self.close()

    # --- sending ---

    def use_shim(self, address: Address, link: QuicLink) -> Shim:
        """Share the error correction for an address, until :meth:`leave_shim`."""
        shim = self._shims.get(address)
        if shim is None:
            shim = self._shims[address] = Shim(address, trio.current_time)
        shim.users.add(link)
        return shim

    def leave_shim(self, address: Address, link: QuicLink) -> None:
        shim = self._shims[address]
        shim.users.remove(link)
        if not shim.users:
            del self._shims[address]

    def send_now(self, datagrams: Sequence[bytes], destination: Address) -> int:
        """Send without waiting; return how many were taken."""
        return 0 if self._closed else self._sock.send(datagrams, destination)

    async def wait_writable(self) -> None:
        """Wait until the socket may take more; any number of connections may wait."""
        if self._writable is not None:
            await self._writable.wait()
            return
        self._writable = event = trio.Event()
        sock = self._sock
        try:
            await sock.wait_writable()
        except trio.ClosedResourceError:
            if sock is self._sock:  # otherwise rebind() has replaced it
                raise
        finally:
            self._writable = None
            event.set()

    # --- what is not QUIC ---

    def send_probe(self, data: bytes, destination: Address) -> None:
        """Send a datagram that is not QUIC, as hole punching and STUN do.

        Raises :class:`LocalProtocolError` for data that could be taken for QUIC. Like any
        datagram it may be lost, also on this machine.
        """
        if not data or data[0] & _FIXED_BIT:
            raise LocalProtocolError("a probe's first byte must not look like QUIC's (RFC 9443)")
        self.send_now([data], destination)

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

    async def accept(self) -> QuicLink:
        """Wait for the next connection; it is not authenticated yet."""
        try:
            return await self._arrivals.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the listener was closed") from None

    async def aclose(self) -> None:
        """Accept no more; connections go on."""
        self._accept_link = None
        self._arrivals_in.close()
        await trio.lowlevel.checkpoint()

    def rebind(self) -> None:
        """Go on from a new socket, on a port that the system chooses.

        Connections migrate to it (RFC 9000, section 9). For sockets that only dial: who
        listens would have moved away from where others look for it.
        """
        if self.listens:
            raise LocalProtocolError("a listening socket keeps its port")
        old = self._sock
        self._sock = UdpSocket.bind(old.local[0], 0, old.family)
        old.close()
        for link in set(self._links.values()):
            link.migrate()

    def close(self) -> None:
        """Close the socket. Connections that still use it fail."""
        for link in set(self._links.values()):
            link.abort()
        self._closed = True
        self._arrivals_in.close()
        self._sock.close()


def _connection_id(data: bytes, offset: int) -> bytes | None:
    """The destination connection ID of the packet at `offset`; None if it is not QUIC."""
    first = data[offset]
    if not first & _FIXED_BIT:
        return None
    if not first & LONG_HEADER:
        return data[offset + 1 : offset + 1 + CONNECTION_ID_SIZE]
    start = offset + 6
    return data[start : start + data[start - 1]] if start <= len(data) else b""
