"""The log of a document: pure. Verified chains go in; what is admitted, and in which order, comes
out.

What is admitted follows from the set of entries and proofs alone, never from the order in which
they came: an author's entries in the order of his chain, each after those that it depends on,
within the limits of the genesis, and none from the place of a proven fork on. What depends on this
replica (rates, budgets, its clock) only delays: such entries are asked for again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Final, TypeAlias

from lattica.crdt.access.rights import Rights, Verdict
from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.entries.erasure import Shown, decode_erasure
from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.remnant import entry_of
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.authority import Authority
from lattica.crdt.log.clock import HybridClock, milliseconds_of
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.dependencies import Dependencies
from lattica.crdt.log.erasure.payloads import Payloads
from lattica.crdt.log.feed import Feed, Run, Vouchers, identity_in
from lattica.crdt.log.forks import Forks
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.log.waiting import WaitingEntries
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket, take

_ABOUT_RIGHTS: Final = (Kind.GRANT, Kind.REVOKE, Kind.FINAL)
_RemnantsAt: TypeAlias = Callable[[bytes, int], Iterable[tuple[bytes, bytes]]]


class Log:
    """What is admitted of a document.

    Args:
        genesis: the document.
        entry_at: the admitted entry of an author and sequence number, from where they are kept.
        withdrawn_at: those of them that are kept, and were withdrawn.
        remnants_at: see :class:`~lattica.crdt.log.forks.Forks`.
        withdrawn_remnants_at: IDs and remnants of what was pruned of an author at a sequence
            number, and then withdrawn.
        about_rights: those that are kept and say something of rights, certificates too; some of
            them may not be admitted any more.
    """

    def __init__(
        self,
        genesis: Genesis,
        entry_at: Callable[[bytes, int], Entry],
        config: LogConfig | None = None,
        withdrawn_at: Callable[[bytes, int], Iterable[Entry]] = lambda author, seq: (),
        about_rights: Callable[[], Iterable[Entry]] = tuple,
        remnants_at: Callable[[bytes, int, int], Iterable[bytes]] = lambda author, seq, most: (),
        withdrawn_remnants_at: _RemnantsAt = lambda author, seq: (),
    ) -> None:
        self.genesis = genesis
        self.feeds: dict[bytes, Feed] = {}
        """By author. Not to be changed by others."""
        self.clock = HybridClock()
        self.config = config or LogConfig()
        self._entry_at = entry_at
        self._withdrawn_at = withdrawn_at
        self._about_rights = about_rights
        self._remnants_at = remnants_at
        self._withdrawn_remnants_at = withdrawn_remnants_at
        self._dependencies = Dependencies(self._is_to_be_final)
        self._waiting = WaitingEntries()
        self._early: dict[bytes, int] = {}
        """By author, the time in ms since 1970 of the entry that waits for it."""
        self.authority = Authority(genesis, self.feeds)
        """What entries say of rights."""
        self.rights = self.authority.rights
        """Who may do what; None: everybody may write."""
        self.erasures = self.authority.erasures
        """Which entries have no payloads any more."""
        self._payloads = Payloads(self.erasures, self.feeds, entry_at, withdrawn_at)
        self._forks = Forks(
            genesis.doc_id, self.feeds, self._waiting, self.authority, entry_at, self._left_at
        )

    # What is here.

    def id_at(self, author: bytes, seq: int) -> bytes | None:
        """The ID of an admitted entry."""
        feed = self.feeds.get(author)
        return feed.ids[seq] if feed is not None and 0 <= seq < len(feed.ids) else None

    def length(self, author: bytes) -> int:
        """How many entries of an author are admitted."""
        feed = self.feeds.get(author)
        return len(feed.ids) if feed else 0

    def knows(self, entry_id: bytes) -> bool:
        """Whether an entry is here, be it as a tombstone."""
        return entry_id in self._dependencies.known

    def behind(self, now_ms: int) -> int:
        """Milliseconds by which the clock here seems to be behind; 0 if nothing says so.

        That one author is ahead says something of him; that most who write are says it of us.
        """
        if len(self._early) < 2 or 2 * len(self._early) <= len(self.feeds):
            return 0
        return max(0, min(self._early.values()) - now_ms)

    # What comes in.

    def restore(self, feeds: Iterable[Feed], tombstones: Iterable[bytes]) -> None:
        """Begin with what was kept. For a log that has nothing yet."""
        for feed in feeds:
            self.feeds[feed.author] = feed
            self._dependencies.known.update(feed.ids)
            self.clock.saw(feed.hlc)
        self._dependencies.known.update(tombstones)

    def with_prefixes(
        self, prefixes: Collection[FeedPrefix], withdrawn: Iterable[Entry]
    ) -> Log | None:
        """The log of what is here and what a snapshot has put together, where no right of the one
        depends on the other: in an open document, or if nothing is here. What waits is not in it.
        None if a fork cuts off what is here: then it is what is kept.
        """
        nothing = Feed(b"")
        if any(each.cuts(self.feeds.get(each.author, nothing)) for each in prefixes):
            return None
        for prefix in prefixes:
            prefix.put_into(self.feeds.setdefault(prefix.author, Feed(prefix.author)))
        for entry in withdrawn:
            author, seq = entry.header.author, entry.header.seq
            self._dependencies.known.add(entry.id)
            feed = self.feeds.setdefault(author, Feed(author))
            if not feed.has(seq, entry.id):
                feed.note_withdrawn(seq)
        log = Log(
            self.genesis,
            self._entry_at,
            self.config,
            self._withdrawn_at,
            self._about_rights,
            self._remnants_at,
            self._withdrawn_remnants_at,
        )
        log.restore(self.feeds.values(), self._dependencies.known)
        if log.rights is not None:
            log.restore_rights(self._about_rights())
        return log

    def restore_rights(self, entries: Iterable[Entry]) -> None:
        """Learn the rights that admitted entries give; after :meth:`restore`."""
        self.authority.restore([*entries])

    def restore_erasures(self, kept: Iterable[tuple[Entry, bytes]]) -> list[Entry]:
        """Learn the erasures that are kept; after :meth:`restore_rights`. See
        :meth:`~lattica.crdt.log.erasure.payloads.Payloads.restore`.
        """
        return self._payloads.restore(kept)

    def erased_by(self, shown: Shown) -> list[Entry]:
        """The kept entries whose payloads go when an erasure is admitted."""
        return self._payloads.erased_by(shown)

    def receive(
        self,
        entries: Sequence[Entry],
        peer: object,
        now_ms: int,
        now: float,
        shown: Sequence[Shown] = (),
    ) -> Outcome:
        """Take a chain of this document that :func:`~lattica.crdt.entries.chain.verify_chain`
        has verified.

        `now_ms` are milliseconds since 1970 by the clock here; `now` seconds that never decrease.
        `shown` are verified erasures that come with it.

        Raises:
            ContradictionError: the chain is not that of the author here, and does not prove
                that either is his.
        """
        outcome = Outcome()
        author, first = entries[0].header.author, entries[0].header.seq
        if entries[0].header.doc_id != self.genesis.doc_id:
            raise RemoteProtocolError("entries of another document")
        if author not in self.feeds and len(self.feeds) >= self.config.max_authors:
            outcome.refuse(author, first, "there are too many authors", is_final=False)
            return outcome
        self._forks.take(entries, outcome)
        with self.erasures.offered([*shown, *self._payloads.standing_in([entries])]):
            feed = self.feeds.get(author) or Feed(author)
            self._payloads.take_missing(feed, entries, outcome)
            fresh = self._fresh(feed, entries)
            if fresh and self._has_rate(feed, fresh, outcome, now):
                self._take(feed, fresh, peer, now_ms, outcome)
                new = self._dependencies.unblocked(outcome.admitted + outcome.tombstones)
                self._drain([author, *new], now_ms, outcome)
            if any(map(self._dependencies.is_wanted, entries)):
                self._keep_tombstones(feed, entries, now_ms, outcome)
            self._reconsider(now_ms, outcome)
        return outcome

    def receive_fork(self, proof: ForkProof, now_ms: int) -> Outcome:
        """Take a proof that :func:`~lattica.crdt.entries.fork.decode_fork` has verified."""
        outcome = Outcome()
        if proof.author in self.feeds or len(self.feeds) < self.config.max_authors:
            self._forks.contain(proof, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    def contradictions(self, prefixes: Iterable[FeedPrefix]) -> list[ForkProof]:
        """Proofs that authors have contradicted themselves, by what a verified snapshot has of them
        and what is here.
        """
        found = (self._forks.contradiction(prefix) for prefix in prefixes)
        return [proof for proof in found if proof is not None]

    def receive_whole(
        self,
        prefixes: Collection[FeedPrefix],
        withdrawn: Iterable[Entry],
        now_ms: int,
        shown: Sequence[Shown] = (),
        filled: Iterable[Entry] = (),
    ) -> Outcome:
        """Take whole chains that somebody who is believed has put together: what rights cover of
        them and of what is here, whichever of them comes first, and without rates.

        None of them contradicts what is here, and `withdrawn` are entries without effect. `shown`
        are erasures because of which some have no payload; `filled` those of which only remnants
        are kept here.
        """
        return finish(self.receiving_whole(prefixes, withdrawn, now_ms, shown, filled))

    def receiving_whole(
        self,
        prefixes: Collection[FeedPrefix],
        withdrawn: Iterable[Entry],
        now_ms: int,
        shown: Sequence[Shown] = (),
        filled: Iterable[Entry] = (),
    ) -> Turns[Outcome]:
        """As :meth:`receive_whole`, in turns, for a log that nobody else sees meanwhile."""
        outcome = Outcome(filled=[*filled])
        chains = [each.entries for each in prefixes if each.entries]
        self._payloads.arriving = {each.author: each for each in prefixes}
        try:
            with self.erasures.offered([*shown, *self._payloads.standing_in(chains)]):
                yield from self._receiving_whole(prefixes, withdrawn, now_ms, outcome)
        finally:
            self._payloads.arriving = {}
        outcome.filled[:] = [
            each
            for each in outcome.filled
            if self.id_at(each.header.author, each.header.seq) == each.id
        ]
        return outcome

    def _receiving_whole(
        self,
        prefixes: Collection[FeedPrefix],
        withdrawn: Iterable[Entry],
        now_ms: int,
        outcome: Outcome,
    ) -> Turns[None]:
        for prefix in prefixes:
            if prefix.fork is not None:
                self._forks.contain(prefix.fork, outcome)
        for entry in withdrawn:
            if not self.knows(entry.id):
                self._dependencies.note(entry.id)
                outcome.tombstones.append(entry)
                author = entry.header.author
                feed = self.feeds.setdefault(author, Feed(author))
                feed.note_withdrawn(entry.header.seq)
                feed.identity = feed.identity or identity_in(entry)
        self._drain(self._dependencies.unblocked(outcome.tombstones), now_ms, outcome)
        if outcome.tombstones and self.rights is not None:
            self.authority.is_changed = True  # an owner here may have called them final
        lengths: list[int] | None = None
        # What gives a right may stand in a later chain than what is written by it.
        while lengths != (lengths := [self.length(each.author) for each in prefixes]):
            outcome.refusals.clear()
            outcome.waiting = 0
            for prefix in prefixes:
                author = prefix.author
                for piece in prefix.pieces(self.genesis.doc_id, self.length(author)):
                    self._take_piece(piece, now_ms, outcome)
                    yield
                    if self.length(author) <= piece[-1].header.seq:
                        break  # the rest of it waits for another chain
                length = self.length(author)
                ahead = self._final_ahead(self.feeds.get(author) or Feed(author), prefix.ids)
                if ahead and length < len(prefix.ids):  # in one piece or not at all
                    rest = islice(prefix.chain(self.genesis.doc_id, length), ahead - length)
                    self._take_piece([*rest], now_ms, outcome)
            self._reconsider(now_ms, outcome)

    def _take_piece(self, entries: Sequence[Entry], now_ms: int, outcome: Outcome) -> None:
        """Take part of a chain, which begins where the author's does or follows on it."""
        author = entries[0].header.author
        feed = self.feeds.get(author) or Feed(author)
        fresh = self._fresh(feed, entries)
        if fresh:
            self._take(feed, fresh, None, now_ms, outcome)
            taken = (each for each in fresh if feed.has(each.header.seq, each.id))
            self._drain([author, *self._dependencies.unblocked(taken)], now_ms, outcome)

    def advance(self, now_ms: int) -> Outcome:
        """Admit what was early and is not any more."""
        outcome = Outcome()
        # What waited may have made room for others'.
        self._early = {each: ms for each, ms in self._early.items() if each in self._waiting}
        limit = now_ms + self.config.max_future * 1000
        due = [author for author, ms in self._early.items() if ms <= limit]
        self._drain(due, now_ms, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    def _left_at(self, author: bytes, seq: int, most: int) -> Iterable[bytes]:
        """As `remnants_at`, of what is taken just now, too."""
        for prefixes in (self._payloads.arriving, self._payloads.regained):
            prefix = prefixes.get(author)
            if prefix is not None and (found := prefix.remnants_at(seq, most)):
                return found
        return self._remnants_at(author, seq, most)

    def regained(self) -> list[FeedPrefix]:
        """What counts again of what was pruned, since :meth:`note_kept`."""
        return [
            each.up_to(length)
            for each in self._payloads.regained.values()
            if min(each.remnants) < (length := self.length(each.author))
        ]

    def note_kept(self) -> None:
        """What has changed is in the file."""
        self._payloads.regained.clear()

    # What is written here.

    def commit(self, entries: Sequence[Entry], identity: bytes, now_ms: int) -> Outcome:
        """Admit entries of :func:`~lattica.crdt.log.own.prepare`, the last that was prepared for
        their session.

        `identity` is the key of the identity that vouches for it.
        """
        outcome = Outcome()
        author = entries[0].header.author
        feed = self.feeds.get(author) or Feed(author, identity)
        for entry in entries:
            feed.follow(entry)
        self._admit(feed, entries, outcome)
        self._drain(self._dependencies.unblocked(entries), now_ms, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    # Rights.

    def has_effect(self, entry: Entry, name: str) -> bool:
        """Whether a right of its author covers what an admitted entry writes at a name."""
        feed = self.feeds.get(entry.header.author)
        return self.rights is None or (
            feed is not None and self.rights.may_write(entry.header, feed.identity, name)
        )

    def _is_allowed(self, feed: Feed, entry: Entry, run: Run, outcome: Outcome) -> bool:
        """Whether the author may write this, behind a run; if that is not known yet, it waits."""
        if self.rights is None or run.is_open:
            return True
        verdict = self.authority.verdict(feed, entry)
        if verdict is not Verdict.ALLOWED and run.has_grants:
            # He may have the right by what he has written before it.
            self._admit_whole(feed, run, outcome)
            verdict = self.authority.verdict(feed, entry)
        if verdict is Verdict.ALLOWED:
            return True
        if entry.header.seq < run.ahead:
            run.is_open = True
            return True
        if entry.header.seq == 0:
            self.rights.forget(entry.id)
        if verdict is Verdict.REFUSED:
            self._waiting.drop(feed.author, entry.header.seq)
            reason = "the author has no right to write this"
            outcome.refuse(feed.author, entry.header.seq, reason, is_final=True)
        return False

    def _reconsider(self, now_ms: int, outcome: Outcome) -> None:
        """Withdraw what rights do not cover any more, and admit what they cover now."""
        if outcome.forks and self.genesis.can_be_recovered:
            # What is appointed because of it may be here.
            self._drain(self._waiting.authors(), now_ms, outcome)
        while self.authority.is_changed or self.authority.is_stale:
            if self.authority.settle():
                self.authority.learn_anew(self._saying_rights(outcome))
                outcome.has_other_owners = True
            if not self.authority.is_changed:
                continue
            self.authority.is_changed = False
            admitted = {(each.header.author, each.header.seq): each for each in outcome.admitted}
            vouchers = Vouchers(self.feeds, partial(self._here, admitted))
            self.authority.forget_unfounded(vouchers.at)
            for feed in [*self.feeds.values()]:
                self._withdraw(feed, admitted, outcome)
            if not self.authority.is_changed:
                self._drain(self._waiting.authors(), now_ms, outcome)
            for feed in [*self.feeds.values()]:
                if feed.is_cut and not self.authority.is_changed:
                    self._admit_again(feed, now_ms, outcome)
        self._payloads.settle(outcome)

    def _saying_rights(self, outcome: Outcome) -> Iterator[Entry]:
        """What is admitted and says something of rights, be it not kept yet."""
        for entry in chain(self._about_rights(), outcome.admitted):
            header = entry.header
            if (header.seq == 0 or header.kind in _ABOUT_RIGHTS) and (
                self.id_at(header.author, header.seq) == entry.id
            ):
                yield entry

    def _admit_again(self, feed: Feed, now_ms: int, outcome: Outcome) -> None:
        """Admit what was withdrawn of an author, as far as a right covers it now: nobody else may
        have it any more as something that it sends.
        """
        fresh = self._admit_run(feed, self._withdrawn(feed, outcome), now_ms, outcome)
        if fresh:
            self._drain([feed.author, *self._dependencies.unblocked(fresh)], now_ms, outcome)

    def _withdrawn(self, feed: Feed, outcome: Outcome) -> Iterator[Entry]:
        """What was withdrawn and follows on a feed, as it grows, while a right covers it or it may
        be final.
        """
        rights, ahead = self.rights, self._final_ahead(feed)
        fresh = {
            each.header.prev_id: each
            for each in outcome.tombstones
            if each.header.author == feed.author
        }
        while rights is not None and feed.may_grow:
            found = self._withdrawn_at(feed.author, len(feed.ids))
            before = self._newest(feed)
            entry = next((each for each in found if each.header.prev_id == before), None)
            entry = entry or fresh.get(before) or self._withdrawn_remnant(feed, before)
            if entry is None:
                is_cut_now = any(author == feed.author for author, _ in outcome.withdrawn)
                feed.is_cut = is_cut_now or bool(fresh)
                return
            if entry.header.seq >= ahead and (
                self.authority.verdict(feed, entry) is not Verdict.ALLOWED
            ):
                return
            yield entry

    def _withdrawn_remnant(self, feed: Feed, before: bytes) -> Entry | None:
        """What is left of the entry that follows on a feed, if it was pruned and withdrawn."""
        author, seq = feed.author, len(feed.ids)
        if author in self._payloads.arriving:
            return None  # that has it
        for entry_id, remnant in self._withdrawn_remnants_at(author, seq):
            entry = entry_of(remnant, self.genesis.doc_id, author, seq, before)
            if entry.id == entry_id:
                prefix = self._payloads.regained.setdefault(author, FeedPrefix(author))
                del prefix.ids[seq:]
                prefix.ids += [*feed.ids[len(prefix.ids) :], entry_id]
                prefix.remnants[seq] = remnant
                return entry
        return None

    def _newest(self, feed: Feed) -> bytes:
        """The ID on which the next entry of a feed follows."""
        return feed.ids[-1] if feed.ids else self.genesis.doc_id

    def _withdraw(
        self, feed: Feed, admitted: dict[tuple[bytes, int], Entry], outcome: Outcome
    ) -> None:
        rights = self.rights
        if rights is None or not feed.ids:
            return
        if rights.is_free(feed.author, feed.identity):
            return
        # With an entry that was called final those before it are not, any more.
        while self._withdraw_uncovered(rights, feed, admitted, outcome):
            pass

    def _withdraw_uncovered(
        self,
        rights: Rights,
        feed: Feed,
        admitted: dict[tuple[bytes, int], Entry],
        outcome: Outcome,
    ) -> bool:
        """Withdraw what comes from the first entry on that no right covers, and is not final;
        whether there is one.
        """
        length = len(feed.ids)
        entry_at = partial(self._here, admitted, feed)
        # Of what is final it need not be asked, and much of it may be pruned.
        seq = rights.finality.length(feed.author)
        while seq < length and (
            rights.verdict(entry_at(seq).header, feed.identity) is Verdict.ALLOWED
        ):
            seq += 1
        if seq == length:
            return False
        hlc = 0
        while seq:
            entry = entry_at(seq - 1)
            if entry.is_signed():
                hlc = entry.header.hlc
                break
            seq -= 1  # only what is withdrawn has vouched for it
        size = feed.size - sum(entry_at(each).size for each in range(seq, length))
        self.authority.forget(feed, seq)
        del feed.ids[seq:]
        feed.bare.difference_update(range(seq, max(feed.bare, default=0) + 1))
        feed.size, feed.hlc, feed.is_cut = size, hlc, True
        self._waiting.drop(feed.author)
        outcome.withdrawn.append((feed.author, seq))
        outcome.admitted[:] = [
            each
            for each in outcome.admitted
            if each.header.author != feed.author or each.header.seq < seq
        ]
        return True

    def _here(self, admitted: Mapping[tuple[bytes, int], Entry], feed: Feed, seq: int) -> Entry:
        """An entry of a feed, be it only what is left of it; of those `admitted` some are not kept
        yet.
        """
        entry = admitted.get((feed.author, seq)) or self._forks.admitted(feed, seq, Outcome())
        assert entry is not None, "of everything that is admitted a header is here"
        return entry

    # Admission.

    @staticmethod
    def _fresh(feed: Feed, entries: Sequence[Entry]) -> list[Entry]:
        since, until = len(feed.ids), feed.fork.seq if feed.fork else None
        return [
            entry
            for entry in entries
            if entry.header.seq >= since and (until is None or entry.header.seq < until)
        ]

    def _has_rate(self, feed: Feed, entries: Sequence[Entry], outcome: Outcome, now: float) -> bool:
        if feed.rate is None:
            feed.rate = TokenBucket(self.config.author_burst, self.config.author_rate)
        if take([feed.rate], sum(entry.size for entry in entries), now):
            return True
        first = entries[0].header.seq
        outcome.refuse(feed.author, first, "the author writes too fast", is_final=False)
        return False

    def _take(
        self, feed: Feed, entries: list[Entry], peer: object, now_ms: int, outcome: Outcome
    ) -> None:
        """Admit what follows on the feed; keep what does not, as far as there is room. What waited
        for it is left to the caller.
        """
        author = feed.author
        left = deque(entries)
        if entries[0].header.seq == len(feed.ids):
            self._follow(feed, left, now_ms, outcome)
        for entry in left:
            if entry.payload is None or self._waiting.get(author, entry.header.seq) is not None:
                continue
            if not self._waiting.add(entry, peer):
                seq = entry.header.seq
                outcome.refuse(author, seq, "too many entries wait", is_final=False)
                break
            outcome.waiting += 1

    def _keep_tombstones(
        self, feed: Feed, entries: Sequence[Entry], now_ms: int, outcome: Outcome
    ) -> None:
        """Keep without effect what is not admitted of these and others' entries wait for."""
        feed.identity = feed.identity or identity_in(entries[0])
        behind = self._behind(feed, entries)
        self._dependencies.keep_tombstones(
            behind, outcome, lambda entry: self._payloads.is_whole(entry, feed)
        )
        if outcome.tombstones:
            self.feeds.setdefault(feed.author, feed)
            feed.note_withdrawn(outcome.tombstones[0].header.seq)
            self._drain(self._dependencies.unblocked(outcome.tombstones), now_ms, outcome)
        if self._final_ahead(feed):
            self._admit_again(feed, now_ms, outcome)

    def _is_to_be_final(self, entry: Entry) -> bool:
        """Whether an owner has called an entry final that is not admitted, and may be."""
        header = entry.header
        if self.rights is None or not self.rights.is_named(header):
            return False
        feed = self.feeds.get(header.author) or Feed(header.author)
        is_before_fork = feed.fork is None or header.seq < feed.fork.seq
        return is_before_fork and not feed.has(header.seq, entry.id)

    def _behind(self, feed: Feed, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those of an author's entries from the place of a fork on, or from the first on that no
        right covers, with those before it that only it vouches for.
        """
        admitted = 0
        for place, entry in enumerate(entries):
            if feed.has(entry.header.seq, entry.id):
                admitted = place + 1
            elif feed.fork is not None and entry.header.seq >= feed.fork.seq:
                return entries[place:]
            elif self._is_uncovered(feed, entry):
                while place > admitted and not entries[place - 1].is_signed():
                    place -= 1
                return entries[place:]
        return ()

    def _is_uncovered(self, feed: Feed, entry: Entry) -> bool:
        """Whether no right covers an entry, or the one before it, which is kept without effect."""
        header = entry.header
        if header.seq > len(feed.ids) and self.knows(header.prev_id):
            return True
        try:
            return self.authority.verdict(feed, entry) is not Verdict.ALLOWED
        except RemoteProtocolError:  # it is no certificate
            return True

    def _follow(self, feed: Feed, left: deque[Entry], now_ms: int, outcome: Outcome) -> None:
        """Admit the entries of `left` that can be, in order; empty it if one never can."""
        refusals = len(outcome.refusals)
        here = (each.id for each in left)
        for _ in self._admit_run(feed, left, now_ms, outcome, here):
            left.popleft()
        self._forks.check_last(feed, outcome)
        if any(each.is_final for each in outcome.refusals[refusals:]):
            left.clear()

    def _drain(self, authors: Iterable[bytes], now_ms: int, outcome: Outcome) -> None:
        """Admit what waits of these authors and can be, and what waits for that in turn."""
        queue = deque(authors)
        while queue:
            author = queue.popleft()
            feed = self.feeds.get(author) or Feed(author)
            self._early.pop(author, None)
            refusals = len(outcome.refusals)
            fresh = self._admit_run(feed, self._waiting_for(feed), now_ms, outcome)
            self._waiting.drop(author, 0, len(feed.ids))
            if any(each.is_final for each in outcome.refusals[refusals:]):
                self._waiting.drop(author)
            queue.extend(self._dependencies.unblocked(fresh))
            entry = self._waiting.get(author, len(feed.ids))
            if entry is not None and entry.header.prev_id != self._newest(feed):
                self._forks.break_off(feed, entry, outcome)
            self._forks.check_last(feed, outcome)

    def _waiting_for(self, feed: Feed) -> Iterator[Entry]:
        """What waits and follows on a feed, as it grows."""
        while (entry := self._waiting.get(feed.author, len(feed.ids))) is not None:
            if entry.header.prev_id != self._newest(feed):
                return
            yield entry

    def _admit_run(
        self,
        feed: Feed,
        entries: Iterable[Entry],
        now_ms: int,
        outcome: Outcome,
        here: Iterable[bytes] = (),
    ) -> list[Entry]:
        """Admit the first of these, each of which follows on the one before, that can be; `here`
        has the IDs of those that are not kept yet.

        Entries that are not signed by themselves count together with the next that is, or not at
        all: what vouches for them would not be here, so others could not be given them, and that
        their author contradicts himself could not be proved. So do those that nothing but an owner
        covers who has called one behind them final: before that has come it is not known that they
        are what he has called so.
        """
        run = Run(feed.hlc, self._final_ahead(feed, here))
        for entry in entries:
            if not self._judge(feed, entry, run, now_ms, outcome):
                break
            feed.follow(entry)
            run.add(entry, is_named=self.rights is not None and self.rights.is_named(entry.header))
        self._admit_whole(feed, run, outcome)
        if run.entries:
            del feed.ids[-len(run.entries) :]
            feed.size -= sum(each.size for each in run.entries)
            feed.hlc = run.hlc
            if self.rights is not None and not feed.ids:
                self.rights.forget(run.entries[0].id)
        return run.admitted

    def _admit_whole(self, feed: Feed, run: Run, outcome: Outcome) -> None:
        """Admit what counts of a run without what follows."""
        is_vouched = feed.fork is not None and feed.fork.vouches_for(feed.ids)
        self._admit(feed, run.take_whole(is_vouched=is_vouched), outcome)

    def _final_ahead(self, feed: Feed, here: Iterable[bytes] = ()) -> int:
        """How many entries of a feed an owner has called final, by one that is not admitted yet:
        it waits, is kept without effect, or its ID is among those `here`. 0 if there is none.
        """
        named = (
            []
            if self.rights is None
            else self.rights.finality.named_since(feed.author, len(feed.ids))
        )
        if feed.fork is not None:
            named = named[: bisect_left(named, (feed.fork.seq, b""))]
        if not named:
            return 0
        ids = {*here}
        for seq, entry_id in reversed(named):
            waiting = self._waiting.get(feed.author, seq)
            if entry_id in ids or self.knows(entry_id) or (waiting and waiting.id == entry_id):
                return seq + 1
        return 0

    def _judge(self, feed: Feed, entry: Entry, run: Run, now_ms: int, outcome: Outcome) -> bool:
        """Whether the next entry of a feed can be admitted now, behind a run."""
        header = entry.header
        reason = self._broken_rule(feed, entry)
        if reason:
            self._waiting.drop(feed.author, header.seq)
            outcome.refuse(feed.author, header.seq, reason, is_final=True)
            return False
        if not self._payloads.is_whole(entry, feed):
            # Somebody has left it out; others have it.
            reason = "an entry without its payload"
            outcome.refuse(feed.author, header.seq, reason, is_final=False)
            return False
        if not self._is_allowed(feed, entry, run, outcome):
            return False
        milliseconds = milliseconds_of(header.hlc)
        if milliseconds > now_ms + self.config.max_future * 1000:
            self._early[feed.author] = milliseconds
            return False
        return self._dependencies.is_met(entry, run.ids)

    def _broken_rule(self, feed: Feed, entry: Entry) -> str:
        """Why no replica admits this as the next entry of a feed; empty if nothing is wrong."""
        header, limits = entry.header, self.genesis.limits
        if header.seq and header.hlc <= feed.hlc:
            return "time does not go on"
        if header.seq and header.payload_size > limits.entry_bytes:
            return f"an entry of {header.payload_size} bytes"
        if feed.size + entry.size > limits.author_bytes:
            return "the author's quota is used up"
        if header.seq == 0 and entry.payload is not None:
            try:
                certificate = decode_certificate(entry.payload, header.doc_id, header.author)
            except RemoteProtocolError as error:
                return f"{error}"
            feed.identity = certificate.identity
            try:
                self.authority.check_certificate(certificate)
                self.authority.learn_certificate(entry)
            except RemoteProtocolError as error:
                return f"{error}"
        if header.kind == Kind.ERASE and entry.payload is not None:
            try:
                decode_erasure(entry.payload)
            except RemoteProtocolError as error:
                return f"{error}"
        return ""

    def _admit(self, feed: Feed, entries: Iterable[Entry], outcome: Outcome) -> list[Entry]:
        """Have entries take effect that stand at the end of a feed; they are returned."""
        entries = [*entries]
        if entries:
            self.feeds.setdefault(feed.author, feed)
            self.clock.saw(feed.hlc)
        for entry in entries:
            if self._payloads.is_pruned(entry):
                outcome.pruned.add(feed.author)
            else:
                outcome.admitted.append(entry)
            outcome.has_revived |= self.knows(entry.id)
            self._dependencies.note(entry.id)
            self.authority.learn(feed, entry)
        outcome.has_other_effects |= self.authority.take_other_effects()
        return entries
