"""What stays of an entry that was pruned: of its header all that the chain does not say anyway.

A chain of entries and remnants can be verified by its links and the newest signature like a chain
of entries alone. A remnant is `u64(hlc) ‖ u8(kind) ‖ u32(payload_size) ‖ u8(dependencies) ‖
payload_hash ‖ dependencies`, big-endian: 46 bytes where there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from lattica.crdt.entries.header import ID_BYTES, MAX_DEPS, Header, check_header
from lattica.nat.base.errors import RemoteProtocolError

_FIXED: Final = Struct(">QBIB32s")
MAX_REMNANT: Final = _FIXED.size + MAX_DEPS * ID_BYTES
"""Bytes."""
_NOWHERE: Final = bytes(ID_BYTES)


def remnant_of(header: Header) -> bytes:
    """The remnant of an entry."""
    fixed = _FIXED.pack(
        header.hlc, header.kind, header.payload_size, len(header.deps), header.payload_hash
    )
    return fixed + b"".join(header.deps)


def split_remnants(data: bytes) -> Iterator[bytes]:
    """Remnants that stand one behind another.

    Raises:
        RemoteProtocolError: they are none.
    """
    place = 0
    while place < len(data):
        if len(data) - place < _FIXED.size:
            raise RemoteProtocolError("remnants of entries that break off")
        end = place + _FIXED.size + data[place + 13] * ID_BYTES
        if data[place + 13] > MAX_DEPS or end > len(data):
            raise RemoteProtocolError("a remnant of an entry with too many dependencies")
        yield data[place:end]
        place = end


def header_of(remnant: bytes, doc_id: bytes, author: bytes, seq: int, prev_id: bytes) -> Header:
    """The header that a remnant is of, at its place in a chain.

    Raises:
        RemoteProtocolError: there is no such header.
    """
    hlc, kind, size, count, digest = _FIXED.unpack_from(remnant)
    places = range(_FIXED.size, _FIXED.size + count * ID_BYTES, ID_BYTES)
    deps = tuple(remnant[place : place + ID_BYTES] for place in places)
    header = Header(doc_id, author, seq, prev_id, deps, hlc, kind, digest, size)
    check_header(header)
    return header


def size_of(remnant: bytes, seq: int) -> int:
    """Bytes that the entry counts for, at this place of any chain."""
    return header_of(remnant, _NOWHERE, _NOWHERE, seq, _NOWHERE).size
