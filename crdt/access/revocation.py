"""Revocations: from where on what somebody writes by a right counts no more.

The payload is `[link, [[author, seq, id], …]]`: the ID of the link that is taken back, and of each
session that wrote by it the last entry that still counts. What is not named does not count, so
nobody can date anything back. Only owners take back, in their own chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.header import ID_BYTES, MAX_SEQ
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES
from lattica.nat.base.errors import RemoteProtocolError

MAX_SESSIONS: Final = 512
_MAX_BYTES: Final = 64 * 1024
LINK_BYTES: Final = 40
"""Of a revocation, beside those entries, at most."""
_LAST_BYTES: Final = 80
"""Of two keys with what canonical data have in front of them, and a number."""

LastEntry: TypeAlias = tuple[bytes, int, bytes]
"""An author, and the number and ID of the last entry of his that counts."""
Last: TypeAlias = tuple[LastEntry, ...]
"""Of authors, in order."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A right that was taken back."""

    link: bytes
    last: Last = ()

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.link, [list(each) for each in self.last]])


def decode_revocation(data: bytes) -> Revocation:
    """Read the payload of a revocation. Raises RemoteProtocolError."""
    match decode(data, _MAX_BYTES):
        case [bytes(link), list(items)] if len(link) == ID_BYTES:
            return Revocation(link, decode_last(items, MAX_SESSIONS))
        case _:
            raise RemoteProtocolError("not a revocation")


def sessions_in(room: int) -> int:
    """Of how many sessions there is room to name the last entry, in so many bytes."""
    return max(0, min(MAX_SESSIONS, room // _LAST_BYTES))


def decode_last(items: Sequence[Plain], most: int) -> Last:
    """Read the last entries of at most so many sessions. Raises RemoteProtocolError."""
    if len(items) > most:
        raise RemoteProtocolError(f"the last entries of more than {most} sessions")
    last: list[LastEntry] = []
    for item in items:
        match item:
            case [bytes(author), int(seq), bytes(entry_id)] if (
                len(author) == KEY_BYTES
                and type(seq) is int
                and 0 <= seq <= MAX_SEQ
                and len(entry_id) == ID_BYTES
            ):
                last.append((author, seq, entry_id))
            case _:
                raise RemoteProtocolError("not the last entry of a session")
    authors = [author for author, _, _ in last]
    if authors != sorted(set(authors)):
        raise RemoteProtocolError("last entries of sessions out of order")
    return tuple(last)


def left_by_all(lasts: Iterable[Last]) -> dict[bytes, tuple[int, bytes]]:
    """What several leave, by author: of the sessions that all name, the earliest last entry. Where
    they name two at one place, it is none of these: the ID is empty.
    """
    left: dict[bytes, tuple[int, bytes]] | None = None
    for last in lasts:
        named = {author: (seq, entry_id) for author, seq, entry_id in last}
        if left is None:
            left = named
            continue
        both = left.keys() & named.keys()
        left = {author: _earlier(left[author], named[author]) for author in both}
    return left or {}


def _earlier(one: tuple[int, bytes], other: tuple[int, bytes]) -> tuple[int, bytes]:
    if one[0] == other[0] and one[1] != other[1]:
        return one[0], b""
    return min(one, other)


def is_within(last: Last, author: bytes, seq: int, entry_id: bytes) -> bool:
    """Whether an entry is the last of its session that counts, or before it."""
    for named, until, newest in last:
        if named == author:
            return seq < until or (seq == until and entry_id == newest)
    return False
