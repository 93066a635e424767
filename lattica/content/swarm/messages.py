"""`/lattica/holdings/1.0.0`: hearing what a peer has of a publication, as it gets more. Pure.

Whoever fetches opens a stream to a peer that may have something, and sends one message; the peer
answers with messages as long as both stay. All are msgpack arrays preceded by their length as a
varint (`Stream.send_message`)::

    hello      [cid, shares, [multiaddr, …]]   the fetcher serves what it gets, at these addresses
    holdings   [0, chunks, bits]               of so many chunks; empty bits mean all of them
               [1, numbers]                    these chunks, too
               [2, numbers, peer]              this one, who shares, has asked for these
               [3, [[peer, [multiaddr, …]], …]]
                                               others who share

`bits` has a bit a chunk, the first one as the lowest bit of the first byte; `numbers` has 4 bytes
(big endian) a chunk. Chunks are numbered as in
:class:`~lattica.content.manifest.manifest.Manifest`. By [2] many that begin at the same time ask
one source for different chunks, and each other for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgpack

from lattica.content.manifest.big_endian import pack_numbers, unpack_numbers
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNKS
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import decode_multiaddr
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import fitting

HOLDINGS = "/lattica/holdings/1.0.0"

MAX_MEMBERS = 32
"""Peers in one message."""
MAX_ADDRESSES = 8
"""Of one peer."""
MAX_ADDRESS_BYTES = 1024
"""Bytes of all addresses of one peer."""
MAX_NUMBERS = 4096
"""Chunks in one message."""
MAX_HELLO = 2048
"""Bytes of the fetcher's message."""
MAX_MESSAGE = max(MAX_CHUNKS // 8, MAX_MEMBERS * (MAX_ADDRESS_BYTES + 256)) + 64
"""Bytes of the other messages."""


@dataclass(frozen=True, slots=True)
class Member:
    """A peer that serves what it has of the publication."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]
    """Without `/p2p/…`, best first."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the fetcher says."""

    cid: Cid
    shares: bool
    addrs: tuple[Multiaddr, ...] = ()


@dataclass(frozen=True, slots=True)
class Has:
    """All that the peer has: bit n of `bits` is chunk n; None: everything."""

    chunks: int
    bits: int | None


@dataclass(frozen=True, slots=True)
class HasMore:
    """Chunks that it has got."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sending:
    """Chunks that it is sending to somebody else."""

    numbers: tuple[int, ...]
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class Members:
    """Others who share."""

    members: tuple[Member, ...]


Message: TypeAlias = Has | HasMore | Sending | Members


def told_addresses(addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """As many of the addresses, best first, as a message has room for."""
    return fitting(list(addrs), MAX_ADDRESSES, MAX_ADDRESS_BYTES)


def _unpack(data: bytes) -> list[object]:
    try:
        fields = msgpack.unpackb(data, max_array_len=MAX_MEMBERS, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a message about holdings is not msgpack: {error!r}") from None
    if not isinstance(fields, list) or not fields:
        raise RemoteProtocolError("a message about holdings is not an array")
    return fields


def _addresses(fields: list[object]) -> tuple[Multiaddr, ...]:
    if len(fields) > MAX_ADDRESSES:
        raise RemoteProtocolError(f"{len(fields)} addresses of one peer")
    total = 0
    found = []
    for field in fields:
        if not isinstance(field, bytes):
            raise RemoteProtocolError("an address is not binary")
        total += len(field)
        if total > MAX_ADDRESS_BYTES:
            raise RemoteProtocolError(f"more than {MAX_ADDRESS_BYTES} bytes of addresses")
        found.append(decode_multiaddr(field))
    return tuple(found)


def encode_hello(hello: Hello) -> bytes:
    """The bytes of the first message."""
    addrs = [address.to_bytes() for address in told_addresses(hello.addrs)]
    data: bytes = msgpack.packb([bytes(hello.cid), hello.shares, addrs])
    return data


def decode_hello(data: bytes) -> Hello:
    """Parse the first message.

    Raises:
        RemoteProtocolError: and nothing else.
    """
    match _unpack(data):
        case [bytes(cid), bool(shares), list(addrs)]:
            return Hello(Cid.from_bytes(cid), shares, _addresses(addrs))
    raise RemoteProtocolError("not a greeting about holdings")


def _numbers(data: bytes) -> tuple[int, ...]:
    if not data or len(data) % 4 or len(data) > 4 * MAX_NUMBERS:
        raise RemoteProtocolError(f"{len(data)} bytes of chunk numbers")
    numbers = unpack_numbers("I", data)
    if max(numbers) >= MAX_CHUNKS:
        raise RemoteProtocolError("a chunk number that no manifest has")
    return tuple(numbers)


def _peer_id(data: bytes) -> PeerId:
    try:
        return PeerId(data)
    except (ValueError, LatticaError):
        raise RemoteProtocolError("a member's peer ID is none") from None


def _members(fields: list[object]) -> tuple[Member, ...]:
    members = []
    for field in fields:
        match field:
            case [bytes(peer), list(addrs)]:
                members.append(Member(_peer_id(peer), _addresses(addrs)))
            case _:
                raise RemoteProtocolError("not a member of a swarm")
    return tuple(members)


def encode_message(message: Message) -> bytes:
    """The bytes of a message; lists are as long as the sender has made them."""
    fields: list[object]
    match message:
        case Has():
            size = (message.chunks + 7) // 8
            bits = b"" if message.bits is None else message.bits.to_bytes(size, "little")
            fields = [0, message.chunks, bits]
        case HasMore():
            fields = [1, pack_numbers("I", message.numbers)]
        case Sending():
            fields = [2, pack_numbers("I", message.numbers), message.peer_id.to_bytes()]
        case Members():
            fields = [
                3,
                [
                    [member.peer_id.to_bytes(), [address.to_bytes() for address in member.addrs]]
                    for member in message.members
                ],
            ]
    data: bytes = msgpack.packb(fields)
    return data


def decode_message(data: bytes) -> Message:
    """Parse what a peer says about its holdings.

    Raises:
        RemoteProtocolError: and nothing else.
    """
    match _unpack(data):
        case [0, int(chunks), bytes(bits)] if 0 <= chunks <= MAX_CHUNKS:
            if not bits:
                return Has(chunks, None)
            if len(bits) == (chunks + 7) // 8:
                value = int.from_bytes(bits, "little")
                if value.bit_length() <= chunks:
                    return Has(chunks, value)
        case [1, bytes(numbers)]:
            return HasMore(_numbers(numbers))
        case [2, bytes(numbers), bytes(peer)]:
            return Sending(_numbers(numbers), _peer_id(peer))
        case [3, list(members)]:
            return Members(_members(members))
    raise RemoteProtocolError("not a message about holdings")
