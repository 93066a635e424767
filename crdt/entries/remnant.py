"""What stays of an entry that was pruned: of its header all that the chain does not say anyway.

A chain of entries and remnants can be verified by its links and the newest signature like a chain
of entries alone. A remnant is `u64(hlc) ‖ u8(kind) ‖ u32(payload_size) ‖ u8(dependencies) ‖
payload_hash ‖ dependencies`, big-endian: 46 bytes where there are none. Of each 256th entry it has
the signature, too, which 128 more in the number of dependencies says: so what is left proves that
an author contradicts himself as the entries did. Those of earlier versions have none.

Only writes go whose effect another one can replace (:data:`PRUNABLE`). What all depend on who judge
what comes later stays: sessions, rights, what is final, erasures, read keys, edits of texts and
lists, and what is of a kind that is not known here. So nobody can leave out by a remnant that a
right was taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from lattica.crdt.entries.chain import is_landmark
from lattica.crdt.entries.header import (
    ID_BYTES,
    MAX_DEPS,
    NOT_SIGNED,
    Entry,
    Header,
    Kind,
    check_header,
)
from lattica.crdt.keys.strict_ed25519 import SIGNATURE_BYTES
from lattica.nat.base.errors import RemoteProtocolError

PRUNABLE: Final = frozenset({Kind.REGISTER, Kind.COUNTER, Kind.SET, Kind.CLAIM})
"""Kinds of entries of which only remnants may be left."""
_FIXED: Final = Struct(">QBIB32s")
_COUNT: Final = 13
"""Where the number of dependencies stands."""
_IS_SIGNED: Final = 0x80
MAX_REMNANT: Final = _FIXED.size + MAX_DEPS * ID_BYTES + SIGNATURE_BYTES
"""Bytes."""
_NOWHERE: Final = bytes(ID_BYTES)


def remnant_of(entry: Entry) -> bytes:
    """The remnant of an entry."""
    header = entry.header
    is_signed = is_landmark(header.seq) and entry.is_signed()
    count = len(header.deps) | (_IS_SIGNED if is_signed else 0)
    fixed = _FIXED.pack(header.hlc, header.kind, header.payload_size, count, header.payload_hash)
    return b"".join((fixed, *header.deps, entry.signature if is_signed else b""))


def split_remnants(data: bytes) -> Iterator[bytes]:
    """Remnants that stand one behind another.

    Raises:
        RemoteProtocolError: they are none.
    """
    place = 0
    while place < len(data):
        if len(data) - place < _FIXED.size:
            raise RemoteProtocolError("remnants of entries that break off")
        count = data[place + _COUNT]
        end = place + _FIXED.size + (count & ~_IS_SIGNED) * ID_BYTES
        end += SIGNATURE_BYTES if count & _IS_SIGNED else 0
        if count & ~_IS_SIGNED > MAX_DEPS or end > len(data):
            raise RemoteProtocolError("a remnant of an entry with too many dependencies")
        yield data[place:end]
        place = end


def entry_of(remnant: bytes, doc_id: bytes, author: bytes, seq: int, prev_id: bytes) -> Entry:
    """What is left of an entry at this place of a chain: no payload, and most often no signature.
    One that is there is not verified.

    Raises:
        RemoteProtocolError: there is no such entry.
    """
    header = _header_of(remnant, doc_id, author, seq, prev_id)
    check_header(header)
    if not has_signature(remnant):
        return Entry(header, NOT_SIGNED, None)
    if not is_landmark(seq):
        raise RemoteProtocolError("a remnant with a signature at a place that has none")
    return Entry(header, remnant[-SIGNATURE_BYTES:], None)


def read_remnant(remnant: bytes, doc_id: bytes, author: bytes, seq: int, prev_id: bytes) -> Entry:
    """As :func:`entry_of`, of a remnant that somebody else has given: that is verified, too.

    Raises:
        RemoteProtocolError: there is no such entry, or it is not left out, whatever follows.
    """
    left = entry_of(remnant, doc_id, author, seq, prev_id)
    if left.header.kind not in PRUNABLE:
        raise RemoteProtocolError(f"a remnant of an entry of kind {left.header.kind}, which stays")
    if has_signature(remnant) and not left.is_signed():
        raise RemoteProtocolError("a remnant that its author has not signed")
    return left


def hlc_of(remnant: bytes) -> int:
    """The hybrid time of the entry."""
    return int(_FIXED.unpack_from(remnant)[0])


def has_signature(remnant: bytes) -> bool:
    """Whether its author's signature is in it."""
    return bool(remnant[_COUNT] & _IS_SIGNED)


def _header_of(remnant: bytes, doc_id: bytes, author: bytes, seq: int, prev_id: bytes) -> Header:
    hlc, kind, size, count, digest = _FIXED.unpack_from(remnant)
    end = _FIXED.size + (count & ~_IS_SIGNED) * ID_BYTES
    deps = tuple(remnant[place : place + ID_BYTES] for place in range(_FIXED.size, end, ID_BYTES))
    return Header(doc_id, author, seq, prev_id, deps, hlc, kind, digest, size)


def size_of(remnant: bytes, seq: int) -> int:
    """Bytes that the entry counts for, at this place of any chain."""
    return _header_of(remnant, _NOWHERE, _NOWHERE, seq, _NOWHERE).size
