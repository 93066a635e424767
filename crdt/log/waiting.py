"""Verified entries that cannot be admitted yet: the ones before them, or what they depend on, are
not here, or they are from the future. Bounded per author, per peer, and in all.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from lattica.crdt.entries.header import Entry

MAX_ENTRIES: Final = 256
"""Of one author."""
MAX_PEER_BYTES: Final = 8 * 1024 * 1024
"""Of what one peer has sent."""
MAX_BYTES: Final = 4 * MAX_PEER_BYTES
"""In all: whoever wants more room has another peer ID. The peer of whom most waits yields to those
who have less; what it has sent comes again, with the next exchange."""
_ENTRY_BYTES: Final = 1024
"""What an entry takes beside what is in it."""


class WaitingEntries:
    """By author and sequence number."""

    def __init__(self) -> None:
        self._entries: dict[bytes, dict[int, tuple[Entry, object]]] = {}
        self._places: dict[object, set[tuple[bytes, int]]] = {}
        """By peer, what of it waits: authors and sequence numbers."""
        self._bytes: Counter[object] = Counter()
        self._total = 0

    def get(self, author: bytes, seq: int) -> Entry | None:
        """The entry of this number."""
        found = self._entries.get(author, {}).get(seq)
        return found and found[0]

    def add(self, entry: Entry, peer: object) -> bool:
        """Keep an entry that `peer` has sent; False if a budget is used up.

        The caller makes sure that there is none of its number.
        """
        author, seq = entry.header.author, entry.header.seq
        size = self._bytes[peer] + _size(entry)
        if len(self._entries.get(author, ())) >= MAX_ENTRIES or size > MAX_PEER_BYTES:
            return False
        if self._total + _size(entry) > MAX_BYTES:
            [(most, most_bytes)] = self._bytes.most_common(1)
            if most_bytes <= size:
                return False
            for place in [*self._places[most]]:
                self._drop(*place)
        self._entries.setdefault(author, {})[seq] = (entry, peer)
        self._places.setdefault(peer, set()).add((author, seq))
        self._bytes[peer] = size
        self._total += _size(entry)
        return True

    def drop(self, author: bytes, since: int = 0, until: int | None = None) -> None:
        """Forget an author's entries from one sequence number on, up to another one."""
        mine = self._entries.get(author, {})
        for seq in [seq for seq in mine if seq >= since and (until is None or seq < until)]:
            self._drop(author, seq)

    def _drop(self, author: bytes, seq: int) -> None:
        mine = self._entries[author]
        entry, peer = mine.pop(seq)
        if not mine:
            del self._entries[author]
        self._places[peer].discard((author, seq))
        self._bytes[peer] -= _size(entry)
        self._total -= _size(entry)
        if not self._places[peer]:
            del self._places[peer], self._bytes[peer]

    def authors(self) -> tuple[bytes, ...]:
        """Whose entries wait."""
        return tuple(self._entries)

    def __contains__(self, author: bytes) -> bool:
        """Whether anything of an author waits."""
        return author in self._entries

    def __len__(self) -> int:
        return sum(len(mine) for mine in self._entries.values())


def _size(entry: Entry) -> int:
    return entry.size + _ENTRY_BYTES
