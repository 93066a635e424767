"""Records that are one value under one key: peers' own addresses, and content by its hash. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from lattica.dht.records.data import MAX_DATA
from lattica.dht.records.keys import CONTENT, PEER, peer_of_key
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import open_record

PEER_TTL = 24 * 3600.0
"""Seconds that a peer's addresses are kept after they were last said."""
CONTENT_TTL = 24 * 3600.0
MAX_CONTENT = 4 * 1024
"""Bytes: anybody may store these."""
_SHA256 = b"\x12\x20"


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A record that was checked."""

    key: bytes
    value: bytes = field(repr=False)
    owner: PeerId | None
    """Who is charged for it; None: whoever stores it."""
    sequence: int
    """Of two, the one with the higher one is valid."""
    ttl: float
    """Seconds that it is kept."""


class PlainRecords(Protocol):
    """A kind of records, of which a table of kinds is made."""

    def covers(self, key: bytes) -> bool:
        """Whether records of this key are of the kind."""
        ...

    def check(self, key: bytes, value: bytes) -> PlainRecord:
        """Raises RemoteProtocolError: the value cannot be under that key."""
        ...


class PeerRecords:
    """Signed records of peers' addresses (libp2p's RFC 0003), under the peer's ID."""

    def covers(self, key: bytes) -> bool:
        return key.startswith(PEER)

    def check(self, key: bytes, value: bytes) -> PlainRecord:
        record = open_record(value)
        if record.peer_id != peer_of_key(key):
            raise RemoteProtocolError("a peer record under the key of another peer")
        return PlainRecord(key, value, record.peer_id, record.seq, PEER_TTL)


class ContentRecords:
    """Small data under its own hash: by anybody, and the same for everybody."""

    def covers(self, key: bytes) -> bool:
        return key.startswith(CONTENT)

    def check(self, key: bytes, value: bytes) -> PlainRecord:
        if len(value) > MAX_CONTENT:
            raise RemoteProtocolError(f"content of {len(value)} bytes, {MAX_CONTENT} are allowed")
        if key.removeprefix(CONTENT) != _SHA256 + hashlib.sha256(value).digest():
            raise RemoteProtocolError("content that has another hash than its key")
        return PlainRecord(key, value, None, 0, CONTENT_TTL)


STANDARD: tuple[PlainRecords, ...] = (PeerRecords(), ContentRecords())


def check_plain(kinds: tuple[PlainRecords, ...], key: bytes, value: bytes) -> PlainRecord:
    """Check a record by its kind. Raises RemoteProtocolError: it is of none, or wrong."""
    if len(value) > MAX_DATA:
        raise RemoteProtocolError(f"a record of {len(value)} bytes, {MAX_DATA} are allowed")
    for kind in kinds:
        if kind.covers(key):
            return kind.check(key, value)
    raise RemoteProtocolError("a record of a kind that is not stored here")
