"""What owners say counts for good, so that the history behind it can go.

The payload is `[[author, seq, id], …]`: of some sessions an entry each, which counts with all that
is before it, whatever right is taken back later. Only owners say so, in their own chains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from lattica.crdt.access.revocation import (
    MAX_SESSIONS,
    Last,
    LastEntry,
    decode_last,
    sessions_in,
)
from lattica.crdt.base.canonical import decode, encode
from lattica.nat.base.errors import RemoteProtocolError

_MAX_BYTES: Final = 64 * 1024


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


@dataclass(slots=True)
class _Named:
    """The entries of one author that are named."""

    counts: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """By number and ID, by how many entries each."""
    places: list[tuple[int, bytes]] | None = None
    """The same in order; None: since then there are others."""
    seen: int = 0
    """Entries of the chain that this was asked for last."""
    newest: bytes = b""
    """The ID of the last of them: it stands for all before it."""
    length: int = 0
    """How many of them count for good."""

    def add(self, place: tuple[int, bytes], ids: Sequence[bytes]) -> bool:
        """Have a place named once more; whether it was not."""
        self.counts[place] += 1
        if self.counts[place] > 1:
            return False
        if self.places is not None:
            insort(self.places, place)
        seq, entry_id = place
        if self.length_of(ids) <= seq < len(ids) and ids[seq] == entry_id:
            self.length = seq + 1
        return True

    def remove(self, place: tuple[int, bytes]) -> bool:
        """Have a place named once less; whether it is not named any more."""
        self.counts[place] -= 1
        if self.counts[place]:
            return False
        del self.counts[place]
        self.places, self.seen, self.length = None, 0, 0
        return True

    def since(self, seq: int) -> list[tuple[int, bytes]]:
        """Those from a number on."""
        if self.places is None:
            self.places = sorted(self.counts)
        return self.places[bisect_left(self.places, (seq, b"")) :]

    def length_of(self, ids: Sequence[bytes]) -> int:
        if self.seen > len(ids) or (self.seen and ids[self.seen - 1] != self.newest):
            self.seen = self.length = 0
        if self.seen < len(ids):
            for seq, entry_id in reversed(self.since(self.seen)):
                if seq < len(ids) and ids[seq] == entry_id:
                    self.length = seq + 1
                    break
            self.seen, self.newest = len(ids), ids[-1]
        return self.length


class Finality:
    """What counts for good, by the entries that say so.

    An entry that is named stands for those before it in its own chain and no others: what is said
    of one that has not come says nothing until it does.

    Args:
        ids_of: of the chain of an author that is here the IDs, by number.
    """

    def __init__(self, ids_of: Callable[[bytes], Sequence[bytes]]) -> None:
        self._ids_of = ids_of
        self._said: dict[bytes, Last] = {}
        """By the ID of the entry."""
        self._named: dict[bytes, _Named] = {}
        """By author."""

    def learn(self, entry_id: bytes, last: Last) -> Last:
        """Take what an owner's entry says; what of it nobody has said before."""
        if entry_id in self._said:
            return ()
        self._said[entry_id] = last
        return tuple(
            (author, seq, named_id)
            for author, seq, named_id in last
            if self._named.setdefault(author, _Named()).add((seq, named_id), self._ids_of(author))
        )

    def forget(self, entry_id: bytes) -> bool:
        """An entry was withdrawn; whether it said anything that no other one says."""
        is_less = False
        for author, seq, named_id in self._said.pop(entry_id, ()):
            named = self._named[author]
            is_less |= named.remove((seq, named_id))
            if not named.counts:
                del self._named[author]
        return is_less

    def names(self, author: bytes, seq: int, entry_id: bytes) -> bool:
        """Whether an entry is one of those that are named."""
        named = self._named.get(author)
        return named is not None and (seq, entry_id) in named.counts

    def named_since(self, author: bytes, seq: int) -> list[tuple[int, bytes]]:
        """The entries of an author from a number on that are named, in order."""
        named = self._named.get(author)
        return [] if named is None else named.since(seq)

    def length(self, author: bytes) -> int:
        """How many entries of the chain that is here count for good."""
        named = self._named.get(author)
        return 0 if named is None else named.length_of(self._ids_of(author))

    def covers(self, author: bytes, seq: int, entry_id: bytes) -> bool:
        """Whether an entry counts for good: of the chain that is here, or the next one."""
        if author not in self._named:
            return False
        ids = self._ids_of(author)
        if seq < len(ids):
            return ids[seq] == entry_id and seq < self.length(author)
        return seq == len(ids) and self.names(author, seq, entry_id)


def in_pieces(last: Iterable[LastEntry], room: int) -> Iterator[Last]:
    """Last entries, by author, as many at a time as an entry may name whose payload has so many
    bytes at most; at least one.
    """
    items = sorted(last)
    most = max(1, sessions_in(room))
    for start in range(0, len(items), most):
        yield tuple(items[start : start + most])
