"""An entry: a signed header, and its payload beside it.

The header is `[1, doc_id, author, seq, prev_id, deps, hlc, kind, payload_hash, payload_size]`,
canonical. It names the payload by hash, so the payload can be erased or left out and the header
still proves what it was. The signature is outside the ID: an entry is one entry however often, and
with whichever bytes, it is signed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode_known
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, SIGNATURE_BYTES, verifies
from lattica.nat.base.errors import RemoteProtocolError

ID_CONTEXT: Final = b"lattica/crdt/id/v1\0"
SIGNATURE_CONTEXT: Final = b"lattica/crdt/entry/v1\0"
VERSION: Final = 1
ID_BYTES: Final = 32
MAX_DEPS: Final = 16
MAX_SEQ: Final = 2**32 - 1
MAX_HLC: Final = 2**64 - 1
MAX_HEADER: Final = 1024
"""Bytes; the longest that the format allows has 748."""
NOT_SIGNED: Final = bytes(SIGNATURE_BYTES)
"""In place of a signature that is not there."""


class Kind(IntEnum):
    """What an entry's payload is."""

    SESSION = 0
    """The certificate of the chain's session key; the first entry of each chain and no other."""
    REGISTER = 1
    COUNTER = 2
    SET = 3
    CLAIM = 4
    TEXT = 5
    LIST = 6
    GRANT = 8
    """A capability; see :mod:`lattica.crdt.access`."""
    REVOKE = 9
    KEY = 10
    """Of a sealed document, about a read key."""
    ERASE = 11
    """Has payloads of earlier entries go; see :mod:`lattica.crdt.entries.erasure`."""
    FINAL = 12
    """Says which entries count for good; see :mod:`lattica.crdt.access.finality`."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an author has signed. Made here or by :func:`decode_header`, which checks it."""

    doc_id: bytes
    author: bytes
    """The session key, 32 bytes."""
    seq: int
    """From 0, without gaps."""
    prev_id: bytes
    """ID of the entry before; of the first: the document's ID."""
    deps: tuple[bytes, ...]
    """IDs, in order, of entries that have to be there before this one takes effect."""
    hlc: int
    """Hybrid logical time: milliseconds since 1970 in the upper 48 bits, a counter below."""
    kind: int
    """A :class:`Kind`, or one of a later version, which takes no effect here."""
    payload_hash: bytes
    """SHA-256."""
    payload_size: int
    """Bytes."""
    encoded: bytes = field(init=False, compare=False, repr=False)
    """The canonical bytes."""
    id: bytes = field(init=False, compare=False, repr=False)
    """SHA-256 of `ID_CONTEXT` and the canonical bytes."""

    def __post_init__(self) -> None:
        encoded = encode_known(
            [
                VERSION,
                self.doc_id,
                self.author,
                self.seq,
                self.prev_id,
                list(self.deps),
                self.hlc,
                self.kind,
                self.payload_hash,
                self.payload_size,
            ]
        )
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "id", hashlib.sha256(ID_CONTEXT + encoded).digest())

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        return SIGNATURE_CONTEXT + self.encoded

    @property
    def size(self) -> int:
        """Bytes that the entry counts for, whether its payload is there or not."""
        return len(self.encoded) + self.payload_size


@dataclass(frozen=True, slots=True)
class Entry:
    """A header, its author's signature, and its payload unless that was left out or erased."""

    header: Header
    signature: bytes
    payload: bytes | None
    _is_signed: bool | None = field(default=None, init=False, compare=False, repr=False)
    """What :meth:`is_signed` has said."""

    @property
    def id(self) -> bytes:
        """The header's."""
        return self.header.id

    @property
    def size(self) -> int:
        """The header's."""
        return self.header.size

    def is_signed(self) -> bool:
        """Whether the signature is the author's. It is verified once."""
        if self._is_signed is None:
            header = self.header
            is_signed = verifies(header.author, self.signature, header.signed_bytes)
            object.__setattr__(self, "_is_signed", is_signed)
        return bool(self._is_signed)


def decode_header(data: bytes) -> Header:
    """Read a header.

    Raises:
        RemoteProtocolError: it is none.
    """
    match decode(data, MAX_HEADER):
        case [
            1,
            bytes(doc_id),
            bytes(author),
            int(seq),
            bytes(prev_id),
            list(deps),
            int(hlc),
            int(kind),
            bytes(payload_hash),
            int(payload_size),
        ]:
            pass
        case _:
            raise RemoteProtocolError("not a header of version 1")
    header = Header(
        doc_id,
        author,
        int(seq),
        prev_id,
        tuple(deps),
        int(hlc),
        int(kind),
        payload_hash,
        int(payload_size),
    )
    check_header(header)
    if header.encoded != data:  # `true` is an int, too, until int() has made 1 of it
        raise RemoteProtocolError("a header in another form than its one")
    return header


def check_header(header: Header) -> None:
    """Check what the format says of every header.

    Raises:
        RemoteProtocolError: a field is out of range; the message says which.
    """
    if not len(header.doc_id) == len(header.prev_id) == len(header.payload_hash) == ID_BYTES:
        raise RemoteProtocolError(f"a hash in a header that has not {ID_BYTES} bytes")
    if len(header.author) != KEY_BYTES:
        raise RemoteProtocolError(f"an author of {len(header.author)} bytes in a header")
    if not 0 <= header.seq <= MAX_SEQ or not 0 <= header.hlc <= MAX_HLC:
        raise RemoteProtocolError("a sequence number or time out of range in a header")
    if not 0 <= header.kind <= 0xFF or not 0 <= header.payload_size <= MAX_SEQ:
        raise RemoteProtocolError("a kind or size out of range in a header")
    if header.deps:
        _check_deps(header.deps)
    if (header.seq == 0) != (header.kind == Kind.SESSION):
        raise RemoteProtocolError("a chain begins with its session's certificate, and only there")
    if header.seq == 0 and (header.prev_id != header.doc_id or header.deps):
        raise RemoteProtocolError("the first entry of a chain follows on nothing but the document")


def _check_deps(deps: tuple[bytes, ...]) -> None:
    if len(deps) > MAX_DEPS or any(type(dep) is not bytes or len(dep) != ID_BYTES for dep in deps):
        raise RemoteProtocolError("dependencies of a header that are not IDs, or too many")
    if any(first >= second for first, second in pairwise(deps)):
        raise RemoteProtocolError("dependencies of a header out of order")


def check_entry(entry: Entry) -> None:
    """Check header, length of the signature, and that the payload, if there, is the header's.

    Raises:
        RemoteProtocolError: something of it is wrong, and not the author's doing.
    """
    header, payload = entry.header, entry.payload
    check_form(entry)
    if payload is not None and (
        len(payload) != header.payload_size
        or hashlib.sha256(payload).digest() != header.payload_hash
    ):
        raise RemoteProtocolError("a payload that is not the one that the header names")


def pack_entry(entry: Entry) -> list[Plain]:
    """The wire form of an entry that stands by itself."""
    return [entry.header.encoded, entry.signature, entry.payload]


def unpack_entry(item: Plain, doc_id: bytes) -> Entry:
    """Read an entry of a document that stands by itself. Its signature is not verified.

    Raises:
        RemoteProtocolError: it is none, or of another document.
    """
    match item:
        case [bytes(header), bytes(signature), bytes() | None as payload]:
            entry = Entry(decode_header(header), signature, payload)
        case _:
            raise RemoteProtocolError("an entry that is none")
    check_entry(entry)
    if entry.header.doc_id != doc_id:
        raise RemoteProtocolError("an entry of another document")
    return entry


def check_form(entry: Entry) -> None:
    """As :func:`check_entry`, of one whose header was made from its payload."""
    check_header(entry.header)
    if len(entry.signature) != SIGNATURE_BYTES:
        raise RemoteProtocolError(f"a signature of {len(entry.signature)} bytes")
