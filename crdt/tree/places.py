"""Keys and values of the tree: where each place of the state stands in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode, encode_known
from lattica.nat.base.errors import RemoteProtocolError

_MAX_VALUE: Final = 1024 * 1024
_TEXT: Final = 5
"""The kind of entries that edit texts."""


def register_key(name: str) -> bytes:
    """`r` and the name, so that names with one prefix stand together."""
    return b"r" + name.encode()


def counter_key(name: str, author: bytes) -> bytes:
    """`c`, the name's encoding and the author."""
    return b"c" + encode(name) + author


def set_key(name: str, element: bytes) -> bytes:
    """`s` and the encodings of name and element."""
    return b"s" + encode(name) + element


def claim_key(name: str, item: bytes, author: bytes) -> bytes:
    """`l`, the encodings of name and item, and the author."""
    return b"l" + encode(name) + item + author


def sequence_key(kind: int, name: str) -> bytes:
    """`t` for a text, `y` for a list, and the name."""
    return (b"t" if kind == _TEXT else b"y") + name.encode()


def encode_standing(writes: Sequence[tuple[Plain, bytes]]) -> bytes:
    """`[value, ID, others]` of the writes that stand at a place, the winner first; `others` is the
    SHA-256 of the IDs of the rest, in their order, or nil if the winner stands alone. Values are as
    they were read from payloads.
    """
    if not writes:
        return encode_known([None, None, None])
    value, winner = writes[0]
    rest = b"".join(entry_id for _, entry_id in writes[1:])
    return encode_known([value, winner, hashlib.sha256(rest).digest() if rest else None])


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at a place."""

    value: Plain
    entry_id: bytes | None
    """Of the entry that wrote it."""
    is_alone: bool
    """Whether nobody wrote something else without knowing of it."""


def decode_standing(data: bytes) -> Standing:
    """Read a value of the tree. Raises RemoteProtocolError."""
    match decode(data, _MAX_VALUE):
        case [value, bytes() | None as entry_id, bytes() | None as others]:
            return Standing(value, entry_id, others is None)
        case _:
            raise RemoteProtocolError("not what stands at a place")
