"""Records of the original: a value with its end, and the index of a key's subkeys. Pure.

Source: lattica 1.0.21, `lattica/src/common/types.rs` and `network/core.rs`. Nothing is signed: as
among nodes of the original, whoever is of the network can write under every key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lattica.compat.wire.bincode import Reader, blob, double, text, uint
from lattica.dht.kademlia.messages import MessageType, Request, encode
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.wire import encode_length_prefixed, encode_uvarint

MAX_SUBKEYS: Final = 1024
MAX_NAME: Final = 512
"""Bytes of a subkey."""
_INDEX: Final = "#index"
_MAX_TIME: Final = 1e11
_TTL_TAG: Final = 777 << 3
_PUBLISHER_TAG: Final = 666 << 3 | 2


@dataclass(frozen=True, slots=True)
class TimedValue:
    """A value until it ends."""

    value: bytes
    """A pickle."""
    expires: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SubkeyIndex:
    """Which subkeys a key has."""

    subkeys: tuple[str, ...]
    expires: float


def merged(indices: Iterable[SubkeyIndex]) -> SubkeyIndex:
    """One index of all subkeys, in the order of the first that has each."""
    names: dict[str, None] = {}
    expires = 0.0
    for index in indices:
        names.update(dict.fromkeys(index.subkeys))
        expires = max(expires, index.expires)
    return SubkeyIndex(tuple(names), expires)


def index_key(key: str) -> bytes:
    """Where the index of a key's subkeys is."""
    return f"{key}{_INDEX}".encode()


def is_index_key(key: bytes) -> bool:
    """Whether what is there is an index."""
    return key.endswith(_INDEX.encode())


def subkey_key(key: str, subkey: str) -> bytes:
    """Where the value of a subkey is."""
    return f"{key}#{subkey}".encode()


def encode_value(value: TimedValue) -> bytes:
    """As a record has it."""
    return blob(value.value) + double(value.expires)


def decode_value(data: bytes) -> TimedValue:
    """Raises RemoteProtocolError."""
    reader = Reader(data)
    value = bytes(reader.blob())
    return TimedValue(value, _end(reader))


def encode_index(index: SubkeyIndex) -> bytes:
    """As a record has it, which has the last of the subkeys where there are too many."""
    subkeys = index.subkeys[-MAX_SUBKEYS:]
    return uint(len(subkeys)) + b"".join(map(text, subkeys)) + double(index.expires)


def decode_index(data: bytes) -> SubkeyIndex:
    """Raises RemoteProtocolError."""
    reader = Reader(data)
    count = reader.uint()
    if count > MAX_SUBKEYS:
        raise RemoteProtocolError(f"an index of {count} subkeys; {MAX_SUBKEYS} can be")
    subkeys = tuple(reader.text(MAX_NAME) for _ in range(count))
    return SubkeyIndex(subkeys, _end(reader))


def _end(reader: Reader) -> float:
    expires = reader.double()
    reader.end()
    if not (math.isfinite(expires) and 0 <= expires < _MAX_TIME):
        raise RemoteProtocolError("a record that ends at no time")
    return expires


def put_message(key: bytes, value: bytes, publisher: bytes, ttl: float) -> bytes:
    """PUT_VALUE as rust-libp2p writes it: the record names its publisher, without which the
    original's store fails, and has a time to live, seconds.
    """
    record = b"\x0a" + encode_length_prefixed(key) + b"\x12" + encode_length_prefixed(value)
    record += encode_uvarint(_PUBLISHER_TAG) + encode_length_prefixed(publisher)
    record += encode_uvarint(_TTL_TAG) + encode_uvarint(max(1, min(int(ttl), 0xFFFFFFFF)))
    return encode(Request(MessageType.PUT_VALUE, key)) + b"\x1a" + encode_length_prefixed(record)
