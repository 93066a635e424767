"""What owners say counts for good, so that the history behind it can go.

The payload is `[[author, seq, id], …]`: of some sessions an entry each, which counts with all that
is before it, whatever right is taken back later. Only owners say so, in their own chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from lattica.crdt.access.revocation import MAX_SESSIONS, Last, decode_last
from lattica.crdt.base.canonical import decode, encode
from lattica.nat.base.errors import RemoteProtocolError

_MAX_BYTES: Final = 64 * 1024
_MAX_ITEM_BYTES: Final = 80
"""Of two keys with what canonical data have in front of them, and a number."""


def encode_finality(last: Last) -> bytes:
    """The payload that names an entry of at most `MAX_SESSIONS` sessions each, by author."""
    return encode([list(each) for each in last])


def decode_finality(data: bytes) -> Last:
    """Read such a payload. Raises RemoteProtocolError."""
    match decode(data, _MAX_BYTES):
        case [_, *_] as items:
            return decode_last(items, MAX_SESSIONS)
        case _:
            raise RemoteProtocolError("not the last entries of sessions")


class Finality:
    """What counts for good, by the entries that say so."""

    def __init__(self) -> None:
        self._said: dict[bytes, Last] = {}
        """By the ID of the entry."""
        self._ends: dict[bytes, set[tuple[int, bytes]]] = {}
        """By author, the numbers and IDs of the entries that are named."""
        self._latest: dict[bytes, int] = {}
        """By author, the number of the last of them."""

    def learn(self, entry_id: bytes, last: Last) -> None:
        """Take what an owner's entry says."""
        self._said[entry_id] = last
        self._add(last)

    def forget(self, entry_id: bytes) -> bool:
        """An entry was withdrawn; whether it said anything."""
        if self._said.pop(entry_id, None) is None:
            return False
        self._ends.clear()
        self._latest.clear()
        for last in self._said.values():
            self._add(last)
        return True

    def _add(self, last: Last) -> None:
        for author, seq, entry_id in last:
            self._ends.setdefault(author, set()).add((seq, entry_id))
            self._latest[author] = max(seq, self._latest.get(author, 0))

    def covers(self, author: bytes, seq: int, entry_id: bytes) -> bool:
        """Whether an entry counts for good."""
        return seq < self._latest.get(author, 0) or (seq, entry_id) in self._ends.get(author, ())

    def length(self, author: bytes, has: Callable[[int, bytes], bool]) -> int:
        """How many of an author's entries count for good, of which `has` says whether one stands at
        its place, by number and ID.
        """
        ends = self._ends.get(author, ())
        return max((seq + 1 for seq, entry_id in ends if has(seq, entry_id)), default=0)


def in_pieces(last: Iterable[tuple[bytes, int, bytes]], room: int) -> Iterator[Last]:
    """Last entries, by author, as many at a time as an entry may name whose payload has so many
    bytes at most; at least one.
    """
    items = sorted(last)
    most = max(1, min(MAX_SESSIONS, room // _MAX_ITEM_BYTES))
    for start in range(0, len(items), most):
        yield tuple(items[start : start + most])
