"""Headers that QUIC shows to everybody, and the two answers that need no connection (RFC 9000, 17).

Not encrypted, so anybody may have written them.
"""

from __future__ import annotations

from dataclasses import dataclass

from qh3._hazmat import pull_quic_header
from qh3.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)

from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE

FIXED_BIT = 0x40
"""Set in the first byte of every QUIC packet, and of nothing else on the socket (RFC 9443)."""
LONG_HEADER = 0x80


@dataclass(frozen=True, slots=True)
class LongHeader:
    """What the first packet of a connection says in clear."""

    destination_cid: bytes
    source_cid: bytes
    token: bytes
    is_initial: bool
    is_known_version: bool
    """It is QUIC version 1, the only one that is spoken here."""
    negotiates: bool
    """It is a Version Negotiation packet, which is never answered."""


def destination_cid(data: bytes, offset: int) -> bytes | None:
    """The destination connection ID of the packet at `offset`; None if it is not QUIC."""
    first = data[offset]
    if not first & FIXED_BIT:
        return None
    if not first & LONG_HEADER:
        return data[offset + 1 : offset + 1 + CONNECTION_ID_SIZE]
    start = offset + 6
    return data[start : start + data[start - 1]] if start <= len(data) else b""


def short_destination_cid(datagram: bytes) -> bytes | None:
    """To whom a datagram with a short header goes; None for another one."""
    return None if datagram[0] & LONG_HEADER else datagram[1 : 1 + CONNECTION_ID_SIZE]


def read_long_header(datagram: bytes) -> LongHeader | None:
    """None for a short header, and for what is malformed."""
    if not datagram[0] & LONG_HEADER:
        return None
    try:
        header = pull_quic_header(datagram, 0, CONNECTION_ID_SIZE)
    except ValueError:
        return None
    version, kind, _, destination, source, token, *_ = header
    return LongHeader(
        destination,
        source,
        token,
        is_initial=kind == QuicPacketType.INITIAL,
        is_known_version=version == QuicProtocolVersion.VERSION_1,
        negotiates=version is None or version == QuicProtocolVersion.NEGOTIATION,
    )


def version_negotiation(header: LongHeader) -> bytes:
    """The answer to a packet of another version."""
    return encode_quic_version_negotiation(
        source_cid=header.destination_cid,
        destination_cid=header.source_cid,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )


def retry(header: LongHeader, source_cid: bytes, token: bytes) -> bytes:
    """A Retry packet: `token` is to come back, in a packet to `source_cid`."""
    return encode_quic_retry(
        version=QuicProtocolVersion.VERSION_1,
        source_cid=source_cid,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=token,
    )
