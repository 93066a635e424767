"""Verified entries that cannot be admitted yet: the ones before them, or what they depend on, are
not here, or they are from the future. Bounded per author, per peer, and in all, which networks
share.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from lattica.crdt.entries.header import Entry
from lattica.nat.base.limits.places import Shares, Source

MAX_ENTRIES: Final = 256
"""Of one author."""
MAX_PEER_BYTES: Final = 8 * 1024 * 1024
"""Of what one peer has sent."""
MAX_BYTES: Final = 4 * MAX_PEER_BYTES
"""In all. The network of which most waits yields to those of which less does, as a peer ID costs
nothing, and in it the peer of whom most does; what it has sent comes again, with the next exchange.
"""
_ENTRY_BYTES: Final = 1024
"""What an entry takes beside what is in it."""


class WaitingEntries:
    """By author and sequence number."""

    def __init__(self) -> None:
        self._entries: dict[bytes, dict[int, tuple[Entry, Source]]] = {}
        self._places: dict[Source, set[tuple[bytes, int]]] = {}
        """By peer, what of it waits: authors and sequence numbers."""
        self._bytes = Shares()
        self._total = 0

    def get(self, author: bytes, seq: int) -> Entry | None:
        """The entry of this number."""
        found = self._entries.get(author, {}).get(seq)
        return found and found[0]

    def add(self, entry: Entry, peer: Hashable) -> bool:
        """Keep an entry that `peer` has sent, who is a network of his own unless he is a
        :class:`Source`; False if a budget is used up.

        The caller makes sure that there is none of its number.
        """
        source = peer if isinstance(peer, Source) else Source(peer, peer)
        author, seq, size = entry.header.author, entry.header.seq, _size(entry)
        if len(self._entries.get(author, ())) >= MAX_ENTRIES:
            return False
        if self._bytes.of_peer(source) + size > MAX_PEER_BYTES or not self._make_room(source, size):
            return False
        self._entries.setdefault(author, {})[seq] = (entry, source)
        self._places.setdefault(source, set()).add((author, seq))
        self._count(source, size)
        return True

    def _make_room(self, source: Source, size: int) -> bool:
        """Whether there is room for so many bytes in all, of those who have less than others."""
        while self._total + size > MAX_BYTES:
            most = self._bytes.largest_network()
            if self._bytes.of_network(most) <= self._bytes.of_network(source.network) + size:
                return False
            of_network = (each for each in self._places if each.network == most)
            for place in [*self._places[max(of_network, key=self._bytes.of_peer)]]:
                self._drop(*place)
        return True

    def _count(self, source: Source, more: int) -> None:
        self._bytes.add(source, more)
        self._total += more

    def drop(self, author: bytes, since: int = 0, until: int | None = None) -> None:
        """Forget an author's entries from one sequence number on, up to another one."""
        mine = self._entries.get(author, {})
        for seq in [seq for seq in mine if seq >= since and (until is None or seq < until)]:
            self._drop(author, seq)

    def _drop(self, author: bytes, seq: int) -> None:
        mine = self._entries[author]
        entry, source = mine.pop(seq)
        if not mine:
            del self._entries[author]
        self._places[source].discard((author, seq))
        self._count(source, -_size(entry))
        if not self._places[source]:
            del self._places[source]

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
