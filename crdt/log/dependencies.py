"""What entries depend on: which of it is here, who waits for the rest, and what of it is kept
without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

from lattica.crdt.entries.header import Entry
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.outcome import Outcome

_MAX_WANTED: Final = 65536
"""IDs of what tombstones depend on that are asked for at a time."""


class Dependencies:
    """By the IDs of entries, which are here and which are missing."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        """What is here, be it as a tombstone."""
        self._blocked: dict[bytes, set[bytes]] = {}
        """By the ID that is missing, whose entries wait for it."""
        self._wanted: set[bytes] = set()
        """IDs of what tombstones depend on, and that is not here."""

    def is_met(self, entry: Entry, before: Container[bytes] = ()) -> bool:
        """Whether all that an entry depends on is here, or among the IDs `before`; if not, its
        author waits for that.
        """
        deps = entry.header.deps
        missing = [dep for dep in deps if dep not in self.known and dep not in before]
        for dep in missing:
            self._blocked.setdefault(dep, set()).add(entry.header.author)
        return not missing

    def unblocked(self, entries: Iterable[Entry]) -> list[bytes]:
        """Whose entries waited for these."""
        return [author for entry in entries for author in self._blocked.pop(entry.id, ())]

    def keep_tombstones(
        self,
        feed: Feed | None,
        entries: Sequence[Entry],
        outcome: Outcome,
        is_whole: Callable[[Entry], bool],
    ) -> None:
        """Others' entries depend on these, which are behind a fork: they do not dangle. Nor do
        these: each comes after the one before it on its branch, and after its own dependencies.

        `is_whole` says whether all of an entry is there that is to be.
        """
        if feed is None or feed.fork is None:
            return
        behind = [
            entry
            for entry in entries
            if entry.header.seq >= feed.fork.seq and entry.id not in self.known and is_whole(entry)
        ]
        for entry in reversed(behind):
            if self._is_wanted(entry) and len(self._wanted) < _MAX_WANTED:
                self._wanted.update(self._lacking(entry, feed.fork.seq))
        for entry in behind:
            if (
                self._is_wanted(entry)
                and not self._lacking(entry, feed.fork.seq)
                and entry.is_signed()
            ):
                self.known.add(entry.id)
                self._wanted.discard(entry.id)
                outcome.tombstones.append(entry)

    def _is_wanted(self, entry: Entry) -> bool:
        return entry.id in self._blocked or entry.id in self._wanted

    def _lacking(self, entry: Entry, fork_seq: int) -> set[bytes]:
        """What a tombstone comes after, and is not here."""
        needed = set(entry.header.deps)
        if entry.header.seq > fork_seq:
            needed.add(entry.header.prev_id)
        return needed - self.known
