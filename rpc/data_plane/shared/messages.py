"""What is said about shared memory: on the stream that agrees on it, on the socket beside it, and
in place of a buffer.

All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgpack

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.config import KIB

SHARED: Final = "/lattica/rpc-shared/1.0.0"
"""The protocol by which two peers find out that they are on one machine."""
MOST_BYTES: Final = 512
"""Of a message on its stream."""
LEAST: Final = 64 * KIB
"""Bytes of a buffer from which a message that shares memory has references in its place."""
SECRET_BYTES: Final = 32
NAME_BYTES: Final = 32
INLINE: Final = 2**32 - 1
"""In place of a slot's number: the bytes follow on the stream."""
REFERENCE_BYTES: Final = 16
RECORD_BYTES: Final = 9
MOST_RECORDS: Final = 256
"""In a packet on the socket."""

_reference: Final = struct.Struct(">QII")
_record: Final = struct.Struct(">BII")
INLINE_REFERENCE: Final = _reference.pack(0, INLINE, 0)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a piece of a buffer is."""

    link: int
    slot: int
    generation: int


class RecordKind(IntEnum):
    RELEASE = 0
    """The receiver has done with that use of a slot, or takes no reference to it any more."""
    RECALL = 1
    """The sender asks it to."""
    READY = 2
    """The caller knows the memory by its number: the peer may use it. Nothing else is in it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """From the caller: a Unix socket in the abstract namespace waits for the peer."""

    name: bytes
    secret: bytes
    """What the peer shows there."""


def encode_offer(offer: Offer) -> bytes:
    return _pack([1, offer.name, offer.secret])


def decode_offer(data: bytes) -> Offer:
    """Raises RemoteProtocolError."""
    value = _unpack(data)
    if type(value) is list and len(value) == 3 and value[0] == 1:
        _, name, secret = value
        if _is_bytes(name, NAME_BYTES) and _is_bytes(secret, SECRET_BYTES):
            return Offer(name, secret)
    raise RemoteProtocolError("RPC: no offer of shared memory")


@dataclass(frozen=True, slots=True)
class Answer:
    """From the peer: it comes to the socket."""

    secret: bytes
    """What the caller's socket shows in its turn."""
    slots: int
    """The most that it takes of the caller's memory."""


def encode_answer(answer: Answer | None) -> bytes:
    """None: this node shares no memory."""
    return _pack([1, None] if answer is None else [1, answer.secret, answer.slots])


def decode_answer(data: bytes) -> Answer | None:
    """Raises RemoteProtocolError."""
    value = _unpack(data)
    if type(value) is list and value == [1, None]:
        return None
    if type(value) is list and len(value) == 3 and value[0] == 1:
        _, secret, slots = value
        if _is_bytes(secret, SECRET_BYTES) and type(slots) is int and slots > 0:
            return Answer(secret, slots)
    raise RemoteProtocolError("RPC: no answer to an offer of shared memory")


def encode_reference(link: int, slot: int, generation: int) -> bytes:
    return _reference.pack(link, slot, generation)


def decode_reference(data: bytes) -> Reference | None:
    """None: what is meant follows on the stream. Raises RemoteProtocolError."""
    link, slot, generation = _reference.unpack(data)
    if slot != INLINE:
        return Reference(link, slot, generation)
    if link or generation:
        raise RemoteProtocolError("RPC: no reference to shared memory")
    return None


def encode_record(kind: RecordKind, slot: int, generation: int) -> bytes:
    return _record.pack(kind, slot, generation)


def decode_records(packet: bytes) -> Iterator[tuple[RecordKind, int, int]]:
    """The records of a packet. Raises RemoteProtocolError."""
    if not packet or len(packet) % RECORD_BYTES:
        raise RemoteProtocolError("RPC: no records of shared memory")
    for kind, slot, generation in _record.iter_unpack(packet):
        if kind > RecordKind.READY:
            raise RemoteProtocolError(f"RPC: no record of shared memory is of kind {kind}")
        yield RecordKind(kind), slot, generation


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(data: bytes) -> object:
    try:
        return msgpack.unpackb(data)
    except Exception as error:  # msgpack's own
        raise RemoteProtocolError(f"RPC: no message about shared memory: {error}"[:200]) from None


def _is_bytes(value: object, size: int) -> bool:
    return type(value) is bytes and len(value) == size
