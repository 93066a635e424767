"""The beginning of an author's chain, without the entries that do not matter any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry


@dataclass(slots=True)
class FeedPrefix:
    """What a snapshot has of one author."""

    author: bytes
    identity: bytes = b""
    """Who vouches for the session key."""
    ids: list[bytes] = field(default_factory=list)
    """Of all entries, by sequence number."""
    size: int = 0
    """Bytes that they count for the author's quota."""
    entries: list[Entry] = field(default_factory=list)
    """Those that matter, in order; the first and, without a fork, the newest are among them."""
    fork: ForkProof | None = None

    def gaps(self) -> Iterator[tuple[int, int]]:
        """The ranges of sequence numbers, from and up to, of which only the IDs are here."""
        start = 0
        for seq in [*(entry.header.seq for entry in self.entries), len(self.ids)]:
            if seq > start:
                yield start, seq
            start = seq + 1
