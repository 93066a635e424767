"""Which payloads of a log go, which may be missing, and which are missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lattica.crdt.entries.erasure import Shown, Target, erasure_of
from lattica.crdt.entries.header import Entry
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.log.feed import Feed, identity_in
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.log.prefix import FeedPrefix
from lattica.nat.base.errors import LocalProtocolError


class Payloads:
    """The payloads of a log's entries, by what is erased.

    Args:
        erasures: what erases.
        feeds: what is admitted, by author; what is missed is noted there.
        entry_at: the admitted entry of an author and sequence number, from where they are kept.
        withdrawn_at: those of them that are kept, and were withdrawn.
    """

    def __init__(
        self,
        erasures: Erasures,
        feeds: Mapping[bytes, Feed],
        entry_at: Callable[[bytes, int], Entry],
        withdrawn_at: Callable[[bytes, int], Iterable[Entry]],
    ) -> None:
        self._erasures = erasures
        self._feeds = feeds
        self._entry_at = entry_at
        self._withdrawn_at = withdrawn_at
        self.arriving: Mapping[bytes, FeedPrefix] = {}
        """By author, what is taken just now, and has been pruned."""
        self.regained: dict[bytes, FeedPrefix] = {}
        """The same of what counts again just now."""

    def is_pruned(self, entry: Entry) -> bool:
        """Whether an entry comes without its payload because its history has gone: it is whole,
        and nobody is asked for more of it.
        """
        if entry.payload is not None:
            return False
        header = entry.header
        return any(
            prefix is not None
            and header.seq in prefix.remnants
            and prefix.ids[header.seq] == entry.id
            for prefix in (self.arriving.get(header.author), self.regained.get(header.author))
        )

    def restore(self, kept: Iterable[tuple[Entry, bytes]]) -> list[Entry]:
        """Learn the erasures that are kept, each with its certificate if the first entry of its
        session is not here. Whose payloads are still to go because of them.
        """
        for entry, certificate in kept:
            header, feed = entry.header, self._feeds.get(entry.header.author)
            identity = feed.identity if feed is not None else b""
            if certificate:
                identity = decode_certificate(certificate, header.doc_id, header.author).identity
            shown = erasure_of(entry, identity, certificate)
            if shown is not None:
                self._erasures.keep(shown)
            if feed is not None and feed.has(header.seq, entry.id):
                self._erasures.learn(entry, identity)
        self._erasures.begin_anew()
        outcome = Outcome()
        self.settle(outcome)
        return outcome.erased

    def standing_in(self, chains: Sequence[Sequence[Entry]]) -> Iterator[Shown]:
        """The erasures in verified chains, if there are entries in these that lack payloads."""
        if all(each.payload is not None for entries in chains for each in entries):
            return
        for entries in chains:
            feed = self._feeds.get(entries[0].header.author)
            certificate, identity = b"", feed.identity if feed is not None else b""
            if not identity and (identity := identity_in(entries[0])):
                certificate = entries[0].payload or b""
            for entry in entries:
                shown = erasure_of(entry, identity, certificate)
                if shown is not None:
                    yield shown

    def is_whole(self, entry: Entry, feed: Feed | None = None) -> bool:
        """Whether an entry has its payload, or something says why not; `feed` is that of its
        author, if it is not admitted yet.
        """
        identity = feed.identity if feed is not None else None
        return self.is_pruned(entry) or self._erasures.is_whole(entry, identity)

    @staticmethod
    def take_missing(feed: Feed, entries: Iterable[Entry], outcome: Outcome) -> None:
        """Take payloads that are missed."""
        missing = {feed.ids[seq] for seq in feed.lacking}
        for entry in entries if missing else ():
            if entry.id in missing and entry.payload is not None:
                feed.bare.discard(entry.header.seq)
                outcome.restored.append(entry)
                outcome.settled.add(feed.author)

    def settle(self, outcome: Outcome) -> None:
        """Have the payloads go that are erased by what has come, and note what is missed."""
        if not self._erasures:
            return
        for entry in (*outcome.admitted, *outcome.filled, *outcome.tombstones):
            if entry.payload is None:
                self._erasures.use_offered(entry.header)
                self._note(entry, outcome)
        outcome.admitted[:] = [*map(self._without_erased, outcome.admitted)]
        outcome.filled[:] = [*map(self._without_erased, outcome.filled)]
        outcome.tombstones[:] = [*map(self._without_erased, outcome.tombstones)]
        outcome.acting += self._erasures.take_changed()
        for shown in outcome.acting:
            for entry in self._kept_of(shown):
                if self._note(entry, outcome) and entry.payload is not None:
                    outcome.erased.append(entry)
        outcome.erasures += self._erasures.take_fresh()

    def erased_by(self, shown: Shown) -> list[Entry]:
        """The kept entries whose payloads go when an erasure is admitted."""
        return [
            each for each in self._kept_of(shown) if self._erasures.may_erase(shown, each.header)
        ]

    def _note(self, entry: Entry, outcome: Outcome) -> bool:
        """Note whether the payload of an entry is missed; whether it is erased."""
        header = entry.header
        is_erased = self._erasures.erases(header)
        feed = self._feeds.get(header.author)
        if feed is not None and feed.has(header.seq, entry.id):
            is_missed = entry.payload is None and not is_erased
            (feed.bare.add if is_missed else feed.bare.discard)(header.seq)
            outcome.settled.add(header.author)
        return is_erased

    def _kept_of(self, shown: Shown) -> Iterator[Entry]:
        """The kept entries that an erasure names, of authors whose it may erase."""
        for target in shown.erasure.targets:
            author, _, _ = target
            if self._erasures.may_concern(shown, author):
                yield from self._kept_at(target)

    def _kept_at(self, target: Target) -> Iterator[Entry]:
        """The entry that an erasure names, if it is kept, be it withdrawn."""
        author, seq, entry_id = target
        feed = self._feeds.get(author)
        if feed is not None and feed.has(seq, entry_id):
            try:
                yield self._entry_at(author, seq)
            except LocalProtocolError:
                return  # it was pruned, or is admitted just now
        else:
            yield from (each for each in self._withdrawn_at(author, seq) if each.id == entry_id)

    def _without_erased(self, entry: Entry) -> Entry:
        if entry.payload is None or not self._erasures.erases(entry.header):
            return entry
        return replace(entry, payload=None)
