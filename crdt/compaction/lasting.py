"""What of a document with owners takes effect whatever comes: nobody can take it back."""

from __future__ import annotations

from lattica.crdt.entries.header import Entry, Header
from lattica.crdt.entries.remnant import PRUNABLE
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.types.state import State


class Lasting:
    """By the rights that are known now, and what of them is final."""

    def __init__(self, replica: Replica) -> None:
        rights = replica.log.rights
        assert rights is not None, "a document without rights has nothing that could be taken back"
        self._replica = replica
        self._rights = rights
        self._takes_effect = rights.lasting()

    def lengths(self) -> dict[bytes, int]:
        """Of how many entries of an author an owner has said that they count for good."""
        found = (
            (author, self._rights.finality.length(author)) for author in self._replica.log.feeds
        )
        return {author: length for author, length in found if length}

    def takes_effect(self, entry: Entry, name: str) -> bool:
        """Whether an entry does at a name."""
        feed = self._replica.log.feeds[entry.header.author]
        return entry.header.kind in PRUNABLE and self._takes_effect(
            entry.header, feed.identity, name
        )

    def is_erased(self, header: Header) -> bool:
        """Whether what an entry says is erased."""
        erasures = self._replica.erasures
        shown = erasures.reason(header) if erasures.erases(header) else None
        return shown is not None and self._rights.is_final(shown.entry.header)

    def state(self) -> State:
        """An empty state for what takes effect."""
        return State(self._replica.genesis, self.takes_effect, self._replica.open_payload)
