"""What entries depend on: which of it is here, who waits for the rest, and what of it is kept
without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final

from lattica.crdt.entries.header import Entry
from lattica.crdt.log.outcome import Outcome

_MAX_WANTED: Final = 65536
"""IDs of what tombstones depend on that are asked for at a time."""
MAX_BLOCKED: Final = 4096
"""Authors whose next entry lacks something; of further ones that is found out when they are heard
again."""


class Dependencies:
    """By the IDs of entries, which are here and which are missing.

    Args:
        is_awaited: whether something else than a dependency makes an entry one that is waited for.
    """

    def __init__(self, is_awaited: Callable[[Entry], bool] = lambda entry: False) -> None:
        self._is_awaited = is_awaited
        self.known: set[bytes] = set()
        """What is here, be it as a tombstone."""
        self._blocked: dict[bytes, set[bytes]] = {}
        """By the ID that is missing, whose entries wait for it."""
        self._missing: dict[bytes, set[bytes]] = {}
        """The same by author: of his next entry, whatever that was at other times."""
        self._wanted: set[bytes] = set()
        """IDs of what tombstones depend on, and that is not here."""

    def is_met(self, entry: Entry, before: Container[bytes] = ()) -> bool:
        """Whether all that an entry depends on is here, or among the IDs `before`; if not, its
        author waits for that.
        """
        author, deps = entry.header.author, entry.header.deps
        missing = {dep for dep in deps if dep not in self.known and dep not in before}
        self._note(author, missing)
        return not missing

    def _note(self, author: bytes, missing: set[bytes]) -> None:
        """Whoever waits for something waits for nothing else any more."""
        for dep in self._missing.pop(author, ()):
            self._blocked[dep].discard(author)
            if not self._blocked[dep]:
                del self._blocked[dep]
        if not missing:
            return
        if len(self._missing) >= MAX_BLOCKED:
            self._note(next(iter(self._missing)), set())
        self._missing[author] = missing
        for dep in missing:
            self._blocked.setdefault(dep, set()).add(author)

    def unblocked(self, entries: Iterable[Entry]) -> list[bytes]:
        """Whose entries waited for these."""
        authors: list[bytes] = []
        for entry in entries:
            for author in [*self._blocked.get(entry.id, ())]:
                self._note(author, self._missing[author] - {entry.id})
                authors.append(author)
        return authors

    def note(self, entry_id: bytes) -> None:
        """An entry is here."""
        self.known.add(entry_id)
        self._wanted.discard(entry_id)

    def is_wanted(self, entry: Entry) -> bool:
        """Whether others' entries wait for this one, or something else does."""
        return entry.id in self._blocked or entry.id in self._wanted or self._is_awaited(entry)

    def keep_tombstones(
        self, behind: Sequence[Entry], outcome: Outcome, is_whole: Callable[[Entry], bool]
    ) -> None:
        """Others' entries depend on some of these, which are not admitted: they do not dangle. Nor
        do these: each comes after the one before it, and after its own dependencies; and those go
        with it that vouch for it.

        `behind` are contiguous; `is_whole` says whether all of an entry is there that is to be.
        """
        runs = [run for run in self._wanted_runs(behind) if all(map(is_whole, run))]
        for run in reversed(runs):
            if len(self._wanted) < _MAX_WANTED:
                lacking = self._lacking(run)
                outcome.says_what_lacks |= not lacking <= self._wanted
                self._wanted |= lacking
        for run in runs:
            if not self._lacking(run):
                new = [entry for entry in run if entry.id not in self.known]
                for entry in new:
                    self.note(entry.id)
                outcome.tombstones += new

    def _wanted_runs(self, entries: Iterable[Entry]) -> Iterator[list[Entry]]:
        """Contiguous entries in pieces, each up to what vouches for one that is wanted; without
        those after the last of these. No more signatures are verified than that takes.
        """
        run: list[Entry] = []
        is_wanted = False
        for entry in entries:
            run.append(entry)
            is_wanted = is_wanted or (self.is_wanted(entry) and entry.id not in self.known)
            if is_wanted and entry.is_signed():
                yield run
                run, is_wanted = [], False

    def _lacking(self, run: Sequence[Entry]) -> set[bytes]:
        """What tombstones come after, and is not here."""
        needed = {dep for entry in run for dep in entry.header.deps}
        if run[0].header.seq:
            needed.add(run[0].header.prev_id)
        return needed - self.known - {entry.id for entry in run}
