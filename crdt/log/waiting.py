"""Verified entries that cannot be admitted yet: the ones before them, or what they depend on, are
not here, or they are from the future. Bounded per author and per peer.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from lattica.crdt.entries.header import Entry

MAX_ENTRIES: Final = 256
"""Of one author."""
MAX_PEER_BYTES: Final = 4 * 1024 * 1024
"""Of what one peer has sent."""


class WaitingEntries:
    """By author and sequence number."""

    def __init__(self) -> None:
        self._entries: dict[bytes, dict[int, tuple[Entry, object]]] = {}
        self._bytes: Counter[object] = Counter()

    def get(self, author: bytes, seq: int) -> Entry | None:
        """The entry of this number."""
        found = self._entries.get(author, {}).get(seq)
        return found and found[0]

    def add(self, entry: Entry, peer: object) -> bool:
        """Keep an entry that `peer` has sent; False if a budget is used up.

        The caller makes sure that there is none of its number.
        """
        mine = self._entries.get(entry.header.author, {})
        if len(mine) >= MAX_ENTRIES or self._bytes[peer] + entry.size > MAX_PEER_BYTES:
            return False
        self._entries.setdefault(entry.header.author, mine)[entry.header.seq] = (entry, peer)
        self._bytes[peer] += entry.size
        return True

    def drop(self, author: bytes, since: int = 0, until: int | None = None) -> None:
        """Forget an author's entries from one sequence number on, up to another one."""
        mine = self._entries.get(author, {})
        for seq in [seq for seq in mine if seq >= since and (until is None or seq < until)]:
            entry, peer = mine.pop(seq)
            self._bytes[peer] -= entry.size
            if self._bytes[peer] <= 0:
                del self._bytes[peer]
        if not mine:
            self._entries.pop(author, None)

    def authors(self) -> tuple[bytes, ...]:
        """Whose entries wait."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return sum(len(mine) for mine in self._entries.values())
