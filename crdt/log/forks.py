"""Authors who contradict themselves. It is proved by what comes and what is here, and contained: an
author counts up to where he contradicts himself first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lattica.crdt.entries.fork import MAX_PATH, ForkProof, Side, find_fork_between
from lattica.crdt.entries.header import Entry, Header
from lattica.crdt.entries.remnant import entry_of
from lattica.crdt.log.authority import Authority
from lattica.crdt.log.errors import ContradictionError
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.log.waiting import WaitingEntries
from lattica.nat.base.errors import LocalProtocolError


class Forks:
    """The forks of a log.

    Args:
        doc_id: the document's.
        feeds: what is admitted, by author; it is cut here.
        waiting: what is not yet, and is dropped where it contradicts.
        authority: learns of what does not count any more.
        entry_at: the admitted entry of an author and sequence number, from where they are kept.
        remnants_at: of as many entries as said, at most, which were pruned and follow on each
            other, what is left of them; none if the first of them is not pruned.
    """

    def __init__(
        self,
        doc_id: bytes,
        feeds: dict[bytes, Feed],
        waiting: WaitingEntries,
        authority: Authority,
        entry_at: Callable[[bytes, int], Entry],
        remnants_at: Callable[[bytes, int, int], Iterable[bytes]],
    ) -> None:
        self._feeds = feeds
        self._waiting = waiting
        self._authority = authority
        self._entry_at = entry_at
        self._remnants_at = remnants_at
        self._doc_id = doc_id
        self._unproved: dict[bytes, int] = {}
        """By author, where his entry here contradicts another, and is not signed by itself."""
        self._contradicted: set[bytes] = set()
        """Authors of whom a chain contradicted what is here, and something was not signed."""

    def take(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """Contain the forks that a chain proves, together with what is here.

        Raises:
            ContradictionError: the chain is not that of the author here, and does not prove
                that either is his.
        """
        for proof in self._contradictions(entries, outcome):
            self.contain(proof, outcome)
        for entry in outcome.resigned:
            self._unproved.pop(entry.header.author, None)

    def _contradictions(self, entries: Sequence[Entry], outcome: Outcome) -> list[ForkProof]:
        """Proofs that the chain and what is here are not of one honest author."""
        author = entries[0].header.author
        feed = self._feeds.get(author)
        if feed is None or (feed.fork is not None and entries[0].header.seq > feed.fork.seq):
            return self._against_waiting(entries)
        for place, entry in enumerate(entries):
            side = Side(entry, tuple(entries[place + 1 :]))
            seq = entry.header.seq
            if feed.fork is not None and seq == feed.fork.seq:
                parted = feed.fork.parted_by(side)
                return [parted] if parted is not None else []
            if (
                feed.fork is not None
                and seq + 1 == feed.fork.seq
                and (seq < len(feed.ids) or not entry.is_signed())
            ):
                # What vouches for it is at the fork, or behind it, and is not kept.
                earlier = feed.fork.earlier_by(side)
                if earlier is not None:
                    return [earlier]
            if seq < len(feed.ids) and feed.ids[seq] == entry.id:
                self._resign(entry, outcome)
            elif seq < len(feed.ids) or (
                seq == len(feed.ids)
                and feed.may_grow
                and seq
                and entry.header.prev_id != feed.ids[-1]
            ):
                return [self._prove(feed, min(seq, len(feed.ids) - 1), side)]
        return self._against_waiting(entries)

    def _prove(self, feed: Feed, seq: int, side: Side) -> ForkProof:
        """The proof by an entry that is admitted, and another one.

        Where one of them is not signed by itself, it is by those that follow on it: a longer proof,
        for which there is time until it is known that nobody has one with the signatures.
        """
        author = feed.author
        ours = self.admitted(feed, seq, Outcome())
        if ours is None:
            raise ContradictionError("a chain that is not the one of which IDs are here")
        proof = find_fork_between(Side(ours), Side(side.entry))
        if proof is None and author in self._contradicted:
            proof = find_fork_between(self._side(feed, ours, Outcome()), side)
        if proof is not None:
            self._contradicted.discard(author)
            return proof
        self._contradicted.add(author)
        if side.entry.is_signed():
            self._unproved[author] = seq
        raise ContradictionError("a chain that is not the one here, and proves no fork")

    def contradiction(self, prefix: FeedPrefix) -> ForkProof | None:
        """The proof that what is here and what a snapshot has are not of one honest author; None if
        they go together, or what is left of them proves nothing.
        """
        feed = self._feeds.get(prefix.author) or Feed(prefix.author)
        shorter = min(len(feed.ids), len(prefix.ids))
        if feed.ids[:shorter] == prefix.ids[:shorter]:
            return None
        seq = next(seq for seq in range(shorter) if feed.ids[seq] != prefix.ids[seq])
        ours = self.admitted(feed, seq, Outcome())
        if ours is None:
            return None
        side = prefix.side_at(self._doc_id, seq)
        return find_fork_between(self._side(feed, ours, Outcome()), side)

    def _side(self, feed: Feed, entry: Entry, outcome: Outcome) -> Side:
        """An entry, and what follows on it here, up to one that is signed by itself."""
        path = [entry]
        while not path[-1].is_signed() and len(path) <= MAX_PATH:
            following = self._following(feed, path[-1].header, outcome)
            if not following:
                break
            path += following
        return Side(entry, tuple(path[1:]))

    def _following(self, feed: Feed, header: Header, outcome: Outcome) -> tuple[Entry, ...]:
        """What is here of that which follows on an entry, be it in the proof of a fork."""
        place = header.seq + 1
        pruned = self._pruned(feed, place, MAX_PATH)
        if pruned and pruned[0].header.prev_id == header.id:
            return pruned
        for entry in self._here(feed, place, outcome):
            if entry.header.prev_id == header.id:
                return (entry,)
        return feed.fork.behind(header) if feed.fork is not None else ()

    def _against_waiting(self, entries: Sequence[Entry]) -> list[ForkProof]:
        for place, entry in enumerate(entries):
            author, seq = entry.header.author, entry.header.seq
            other = self._waiting.get(author, seq)
            if other is not None and other.id != entry.id:
                feed = self._feeds.get(author) or Feed(author)
                ours = self._side(feed, other, Outcome())
                proof = find_fork_between(ours, Side(entry, tuple(entries[place + 1 :])))
                if proof is not None:
                    return [proof]
                # One of them lacks its own signature. What is here gives way, and comes again.
                self._waiting.drop(entry.header.author, entry.header.seq)
        return []

    def _resign(self, entry: Entry, outcome: Outcome) -> None:
        author, seq = entry.header.author, entry.header.seq
        if self._unproved.get(author) == seq and entry.is_signed():
            outcome.resigned.append(entry)

    def contain(self, proof: ForkProof, outcome: Outcome) -> None:
        """Keep only what is before a fork.

        Where that is follows from all entries that have come, in whatever order they did: of those
        that stand at its place it is remembered whether they follow on two different ones, and
        then what is before them is not to be trusted either.
        """
        feed = self._feeds.setdefault(proof.author, Feed(proof.author))
        if feed.fork is not None and feed.fork.seq <= proof.seq:
            if feed.fork.seq == proof.seq and feed.fork.is_within(proof):
                feed.fork = proof
                outcome.forks.append(proof)
                self.check_last(feed, outcome)
            elif feed.fork.seq == proof.seq:
                self._part(feed, proof.earliest, outcome)
            return
        seq = proof.seq
        here = [self._side(feed, each, outcome) for each in self._here(feed, seq, outcome)]
        before = [
            self._side(feed, each, outcome)
            for each in self._here(feed, seq - 1, outcome)
            if not each.is_signed()
        ]
        last = self.admitted(feed, seq - 1, outcome)
        self._authority.forget(feed, seq)
        feed.cut(proof, last)
        self._authority.note_fork(feed)
        self._waiting.drop(proof.author, seq)
        self._unproved.pop(proof.author, None)
        self._contradicted.discard(proof.author)
        outcome.forks.append(proof)
        self._part(feed, here, outcome)
        for side in before:
            earlier = feed.fork.earlier_by(side) if feed.fork is not None else None
            if earlier is not None:
                self.contain(earlier, outcome)
        self.check_last(feed, outcome)

    def _part(self, feed: Feed, sides: Iterable[Side], outcome: Outcome) -> None:
        """Note on what entries at the place of a fork follow."""
        for side in sides:
            parted = feed.fork.parted_by(side) if feed.fork is not None else None
            if parted is not None:
                feed.fork = parted
                outcome.forks.append(parted)
                self.check_last(feed, outcome)

    def check_last(self, feed: Feed, outcome: Outcome) -> None:
        """Whether what stands at a fork follows on the last entry before it; if not, that is where
        the author begins to contradict himself.
        """
        if feed.fork is None or not feed.ids or len(feed.ids) != feed.fork.seq:
            return
        for side in feed.fork.earliest:
            if side.entry.header.prev_id != feed.ids[-1]:
                last = self.admitted(feed, len(feed.ids) - 1, outcome)
                if last is None:
                    return
                proof = find_fork_between(self._side(feed, last, outcome), side)
                if proof is not None:
                    self.contain(proof, outcome)
                    return

    def _here(self, feed: Feed, seq: int, outcome: Outcome) -> list[Entry]:
        """What is here of an author at a sequence number: admitted, and waiting."""
        found = (self.admitted(feed, seq, outcome), self._waiting.get(feed.author, seq))
        return [entry for entry in found if entry is not None]

    def admitted(self, feed: Feed, seq: int, outcome: Outcome) -> Entry | None:
        """An entry that is admitted, be it just now; None if there is none, or only its ID."""
        if not 0 <= seq < len(feed.ids):
            return None
        for entry in reversed(outcome.admitted):  # not kept yet
            if entry.id == feed.ids[seq]:
                return entry
        try:
            return self._entry_at(feed.author, seq)
        except LocalProtocolError:
            return next(iter(self._pruned(feed, seq, 1)), None)

    def _pruned(self, feed: Feed, seq: int, most: int) -> tuple[Entry, ...]:
        """What is left of entries from a sequence number on."""
        found: list[Entry] = []
        most = min(most, len(feed.ids) - seq)
        for remnant in self._remnants_at(feed.author, seq, most) if most > 0 else ():
            prev_id = feed.ids[seq + len(found) - 1]
            found.append(entry_of(remnant, self._doc_id, feed.author, seq + len(found), prev_id))
            if found[-1].is_signed():
                break
        return tuple(found)

    def break_off(self, feed: Feed, entry: Entry, outcome: Outcome) -> None:
        """What waited does not follow on what has come."""
        side = self._side(feed, entry, outcome)
        self._waiting.drop(feed.author)
        before = self.admitted(feed, len(feed.ids) - 1, outcome)
        proof = find_fork_between(Side(before), side) if before is not None else None
        if proof is not None:
            self.contain(proof, outcome)
