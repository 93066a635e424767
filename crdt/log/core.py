"""The log of a document: pure. Verified chains go in; what is admitted, and in which order, comes
out.

What is admitted follows from the set of entries and proofs alone, never from the order in which
they came: an author's entries in the order of his chain, each after those that it depends on,
within the limits of the genesis, and none from the place of a proven fork on. What depends on this
replica (rates, budgets, its clock) only delays: such entries are asked for again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from lattica.crdt.access.rights import Rights, Verdict
from lattica.crdt.entries.fork import MAX_PATH, ForkProof, Side, find_fork_between
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Header, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey, decode_certificate
from lattica.crdt.log.clock import HybridClock, milliseconds_of
from lattica.crdt.log.errors import ContradictionError
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.waiting import WaitingEntries
from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.base.errors import (
    AccessDeniedError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.limits.token_bucket import TokenBucket, take

_MAX_WANTED: Final = 65536
"""IDs of what tombstones depend on that are asked for at a time."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What one replica stands. Raises :class:`~lattica.errors.ConfigError`."""

    max_authors: int = 100_000
    """Session keys whose entries are taken."""
    max_future: float = 60.0
    """Seconds that an entry may be ahead of the clock here; beyond, it waits."""
    author_rate: float = 1024.0 * 1024.0
    """Bytes a second of one author, once the burst is used up."""
    author_burst: float = 64.0 * 1024.0 * 1024.0
    """Bytes of one author at once."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.max_authors >= 1, "max_authors", "a positive number", self.max_authors)
        require_seconds("max_future", self.max_future)
        require(self.author_rate > 0, "author_rate", "a positive number", self.author_rate)
        require(self.author_burst > 0, "author_burst", "a positive number", self.author_burst)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Entries that no replica admits, or not now."""

    author: bytes
    seq: int
    """The first of them."""
    reason: str
    is_final: bool
    """Whether the author broke a rule; otherwise it may be sent again later."""


@dataclass(slots=True)
class Outcome:
    """What has changed in a log by one call."""

    admitted: list[Entry] = field(default_factory=list)
    """In an order in which each comes after what it depends on."""
    forks: list[ForkProof] = field(default_factory=list)
    """Proofs that are new; everything of `proof.author` from `proof.seq` on is withdrawn."""
    tombstones: list[Entry] = field(default_factory=list)
    """Entries behind a fork that others depend on: kept, without effect."""
    resigned: list[Entry] = field(default_factory=list)
    """Entries that were here with a signature that is not their own; these have it."""
    withdrawn: list[tuple[bytes, int]] = field(default_factory=list)
    """Authors, and from which number on their entries do not count any more, because a right was
    taken back."""
    refusals: list[Refusal] = field(default_factory=list)
    waiting: int = 0
    """Entries that were taken and wait, because something is missing or they are early."""

    @property
    def is_news(self) -> bool:
        """Whether anything has changed but what waits."""
        return bool(
            self.admitted or self.forks or self.tombstones or self.resigned or self.withdrawn
        )


class Log:
    """What is admitted of a document.

    Args:
        genesis: the document.
        entry_at: the admitted entry of an author and sequence number, from where they are kept.
        withdrawn_at: those of them that are kept, and were withdrawn.
    """

    def __init__(
        self,
        genesis: Genesis,
        entry_at: Callable[[bytes, int], Entry],
        config: LogConfig | None = None,
        withdrawn_at: Callable[[bytes, int], Iterable[Entry]] = lambda author, seq: (),
    ) -> None:
        self.genesis = genesis
        self.feeds: dict[bytes, Feed] = {}
        """By author. Not to be changed by others."""
        self.clock = HybridClock()
        self.config = config or LogConfig()
        self._entry_at = entry_at
        self._withdrawn_at = withdrawn_at
        self._known: set[bytes] = set()
        self._waiting = WaitingEntries()
        self._blocked: dict[bytes, set[bytes]] = {}
        """By the ID that is missing, whose entries wait for it."""
        self._early: dict[bytes, int] = {}
        """By author, the time in ms since 1970 of the entry that waits for it."""
        self._wanted: set[bytes] = set()
        """IDs of what tombstones depend on, and that is not here."""
        self.rights = None if genesis.mode is Mode.OPEN else Rights(genesis)
        """Who may do what; None: everybody may write."""
        self._are_rights_new = False
        self._unproved: dict[bytes, int] = {}
        """By author, where his entry here contradicts another, and is not signed by itself."""
        self._contradicted: set[bytes] = set()
        """Authors of whom a chain contradicted what is here, and something was not signed."""

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
        return entry_id in self._known

    @property
    def missing(self) -> tuple[bytes, ...]:
        """IDs that entries which wait, and tombstones, depend on, and that are not here."""
        following = (
            self._waiting.get(author, self.length(author)) for author in self._waiting.authors()
        )
        deps = {dep for entry in following if entry is not None for dep in entry.header.deps}
        return tuple(sorted((deps | self._wanted) - self._known))

    @property
    def gaps(self) -> tuple[tuple[bytes, int], ...]:
        """Authors, and the first sequence number of theirs that is missing before what waits."""
        return tuple(
            (author, self.length(author))
            for author in self._waiting.authors()
            if self._waiting.get(author, self.length(author)) is None
        )

    @property
    def unproved(self) -> tuple[tuple[bytes, int], ...]:
        """Authors and sequence numbers of entries that are needed with their own signatures."""
        return tuple(self._unproved.items())

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
            self._known.update(feed.ids)
            self.clock.saw(feed.hlc)
        self._known.update(tombstones)

    def restore_rights(self, entries: Iterable[Entry]) -> None:
        """Learn the rights that admitted entries give; after :meth:`restore`."""
        for entry in entries:
            self._learn(self.feeds[entry.header.author], entry)
        self._are_rights_new = False

    def receive(self, entries: Sequence[Entry], peer: object, now_ms: int, now: float) -> Outcome:
        """Take a chain of this document that :func:`~lattica.crdt.entries.chain.verify_chain`
        has verified.

        `now_ms` are milliseconds since 1970 by the clock here; `now` seconds that never decrease.

        Raises:
            ContradictionError: the chain is not that of the author here, and does not prove
                that either is his.
        """
        outcome = Outcome()
        author, first = entries[0].header.author, entries[0].header.seq
        if entries[0].header.doc_id != self.genesis.doc_id:
            raise RemoteProtocolError("entries of another document")
        if author not in self.feeds and len(self.feeds) >= self.config.max_authors:
            self._refuse(outcome, author, first, "there are too many authors", is_final=False)
            return outcome
        for proof in self._contradictions(entries, outcome):
            self._contain(proof, outcome)
        for entry in outcome.resigned:
            self._unproved.pop(entry.header.author, None)
        self._keep_tombstones(entries, outcome)
        feed = self.feeds.get(author) or Feed(author)
        fresh = self._fresh(feed, entries)
        if fresh and self._has_rate(feed, fresh, outcome, now):
            self._take(feed, fresh, peer, now_ms, outcome)
        elif outcome.tombstones:
            self._drain(self._unblocked(outcome.tombstones), now_ms, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    def receive_fork(self, proof: ForkProof, now_ms: int) -> Outcome:
        """Take a proof that :func:`~lattica.crdt.entries.fork.decode_fork` has verified."""
        outcome = Outcome()
        if proof.author in self.feeds or len(self.feeds) < self.config.max_authors:
            self._contain(proof, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    def receive_whole(
        self,
        chains: Sequence[Sequence[Entry]],
        proofs: Iterable[ForkProof],
        withdrawn: Iterable[Entry],
        now_ms: int,
    ) -> Outcome:
        """Take whole chains that somebody who is believed has put together: what rights cover of
        them and of what is here, whichever of them comes first, and without rates.

        None of them contradicts what is here, and `withdrawn` are entries without effect.
        """
        outcome = Outcome()
        for proof in proofs:
            self._contain(proof, outcome)
        for entry in withdrawn:
            if entry.id not in self._known:
                self._known.add(entry.id)
                outcome.tombstones.append(entry)
        lengths: list[int] | None = None
        # What gives a right may stand in a later chain than what is written by it.
        while lengths != (lengths := [self.length(each[0].header.author) for each in chains]):
            outcome.refusals.clear()
            outcome.waiting = 0
            for entries in chains:
                feed = self.feeds.get(entries[0].header.author) or Feed(entries[0].header.author)
                fresh = self._fresh(feed, entries)
                if fresh:
                    self._take(feed, fresh, None, now_ms, outcome)
            self._reconsider(now_ms, outcome)
        return outcome

    def advance(self, now_ms: int) -> Outcome:
        """Admit what was early and is not any more."""
        outcome = Outcome()
        limit = now_ms + self.config.max_future * 1000
        due = [author for author, ms in self._early.items() if ms <= limit]
        self._drain(due, now_ms, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    # What is written here.

    def prepare(
        self,
        session: SessionKey,
        identity: Identity,
        payloads: Sequence[tuple[Kind, bytes, tuple[bytes, ...]]],
        now_ms: int,
        capability: bytes = b"",
    ) -> list[Entry]:
        """Sign entries of one's own: for each kind, payload and dependencies, in order.

        Nothing is changed here: :meth:`commit` does that once they are safe on disk, and before
        they are sent. A session that is new begins with its certificate.

        Raises:
            LocalProtocolError: a payload is too large, a dependency is not here, or the session
                has forked.
            AccessDeniedError: the identity has no right to write.
            ResourceLimitError: the quota of the session is used up.
        """
        doc_id, author = self.genesis.doc_id, session.author
        feed = self.feeds.get(author) or Feed(author)
        if feed.fork is not None:
            raise LocalProtocolError("this session has contradicted itself; begin another one")
        for _, payload, deps in payloads:
            if len(payload) > self.genesis.limits.entry_bytes:
                raise LocalProtocolError(
                    f"an entry of {len(payload)} bytes, where {self.genesis.limits.entry_bytes} "
                    "are allowed"
                )
            if not self._known.issuperset(deps):
                raise LocalProtocolError("an entry that depends on one that is not here")
        items = list(payloads)
        if not feed.ids:
            certificate = session.certificate(identity, doc_id, capability).encode()
            items.insert(0, (Kind.SESSION, certificate, ()))
        entries: list[Entry] = []
        seq, prev, size = len(feed.ids), feed.ids[-1] if feed.ids else doc_id, feed.size
        for kind, payload, deps in items:
            hlc = self.clock.tick(now_ms)
            entry = sign_entry(session, doc_id, seq, prev, hlc, kind, payload, deps)
            entries.append(entry)
            seq, prev, size = seq + 1, entry.id, size + entry.size
        self._check_own(entries, identity.public_key.data)
        if size > self.genesis.limits.author_bytes:
            raise ResourceLimitError(
                f"a session may write {self.genesis.limits.author_bytes} bytes to this document"
            )
        return entries

    def _check_own(self, entries: Sequence[Entry], identity: bytes) -> None:
        rights = self.rights
        if rights is None:
            return
        first = entries[0]
        if first.header.seq == 0:
            self._learn_certificate(first)
        try:
            if any(rights.verdict(e.header, identity) is not Verdict.ALLOWED for e in entries):
                raise AccessDeniedError(
                    "this peer has no right to write to the document, or no more; an owner can "
                    "give it one"
                )
        finally:
            if first.header.seq == 0:
                rights.forget(first.id)

    def commit(self, entries: Sequence[Entry], identity: bytes, now_ms: int) -> Outcome:
        """Admit entries of :meth:`prepare`, the last that was prepared for their session.

        `identity` is the key of the identity that vouches for it.
        """
        outcome = Outcome()
        for entry in entries:
            author = entry.header.author
            feed = self.feeds.setdefault(author, Feed(author, identity))
            self._admit(feed, entry)
            outcome.admitted.append(entry)
        self._drain(self._unblocked(entries), now_ms, outcome)
        self._reconsider(now_ms, outcome)
        return outcome

    # Rights.

    def _learn(self, feed: Feed, entry: Entry) -> None:
        """Take what an admitted entry says of rights."""
        rights = self.rights
        if rights is None:
            return
        if entry.header.seq == 0:
            self._learn_certificate(entry)
        elif rights.learn(entry, feed.identity):
            self._are_rights_new = True

    def _learn_certificate(self, entry: Entry) -> None:
        """Raises RemoteProtocolError."""
        header = entry.header
        if self.rights is None or self.genesis.mode is not Mode.CAPABILITY:
            return
        certificate = decode_certificate(entry.payload or b"", header.doc_id, header.author)
        if certificate.capability:
            self.rights.learn_certificate(entry.id, certificate.capability)

    def has_effect(self, entry: Entry, name: str) -> bool:
        """Whether a right of its author covers what an admitted entry writes at a name."""
        feed = self.feeds.get(entry.header.author)
        return self.rights is None or (
            feed is not None and self.rights.may_write(entry.header, feed.identity, name)
        )

    def _is_allowed(self, feed: Feed, entry: Entry, outcome: Outcome) -> bool:
        """Whether the author may write this; if that is not known yet, it waits."""
        if self.rights is None:
            return True
        verdict = self.rights.verdict(entry.header, feed.identity)
        if verdict is Verdict.ALLOWED:
            return True
        if entry.header.seq == 0:
            self.rights.forget(entry.id)
        if verdict is Verdict.REFUSED:
            self._waiting.drop(feed.author, entry.header.seq)
            reason = "the author has no right to write this"
            self._refuse(outcome, feed.author, entry.header.seq, reason, is_final=True)
        return False

    def _reconsider(self, now_ms: int, outcome: Outcome) -> None:
        """Withdraw what rights do not cover any more, and admit what they cover now."""
        while self._are_rights_new:
            self._are_rights_new = False
            admitted = {(each.header.author, each.header.seq): each for each in outcome.admitted}
            for feed in [*self.feeds.values()]:
                self._withdraw(feed, admitted, outcome)
            if not self._are_rights_new:
                self._drain(self._waiting.authors(), now_ms, outcome)
            for feed in [*self.feeds.values()]:
                if feed.is_cut and not self._are_rights_new:
                    self._admit_again(feed, now_ms, outcome)

    def _admit_again(self, feed: Feed, now_ms: int, outcome: Outcome) -> None:
        """Admit what was withdrawn of an author, as far as a right covers it now: nobody else may
        have it any more as something that it sends.
        """
        rights = self.rights
        fresh: list[Entry] = []
        while rights is not None and feed.may_grow:
            before = feed.ids[-1] if feed.ids else self.genesis.doc_id
            found = self._withdrawn_at(feed.author, len(feed.ids))
            entry = next((each for each in found if each.header.prev_id == before), None)
            if entry is None:
                feed.is_cut = any(author == feed.author for author, _ in outcome.withdrawn)
                break
            if rights.verdict(entry.header, feed.identity) is not Verdict.ALLOWED:
                break
            if not self._judge(feed, entry, now_ms, outcome):
                break
            self._admit(feed, entry)
            fresh.append(entry)
        outcome.admitted += fresh
        if fresh:
            self._drain([feed.author, *self._unblocked(fresh)], now_ms, outcome)

    def _withdraw(
        self, feed: Feed, admitted: dict[tuple[bytes, int], Entry], outcome: Outcome
    ) -> None:
        rights = self.rights
        if rights is None or not feed.ids or rights.is_free(feed.identity):
            return
        size = 0
        hlc = 0
        for seq in range(len(feed.ids)):
            entry = admitted.get((feed.author, seq)) or self._entry_at(feed.author, seq)
            if rights.verdict(entry.header, feed.identity) is not Verdict.ALLOWED:
                break
            size, hlc = size + entry.size, entry.header.hlc
        else:
            return
        for entry_id in feed.ids[seq:]:
            self._are_rights_new |= rights.forget(entry_id)
        del feed.ids[seq:]
        feed.size, feed.hlc, feed.is_cut = size, hlc, True
        self._waiting.drop(feed.author)
        outcome.withdrawn.append((feed.author, seq))
        outcome.admitted[:] = [
            each
            for each in outcome.admitted
            if each.header.author != feed.author or each.header.seq < seq
        ]

    # Forks.

    def _contradictions(self, entries: Sequence[Entry], outcome: Outcome) -> list[ForkProof]:
        """Proofs that the chain and what is here are not of one honest author."""
        author = entries[0].header.author
        feed = self.feeds.get(author)
        if feed is None or (feed.fork is not None and entries[0].header.seq > feed.fork.seq):
            return self._against_waiting(entries)
        for place, entry in enumerate(entries):
            side = Side(entry, tuple(entries[place + 1 :]))
            if feed.fork is not None and entry.header.seq == feed.fork.seq:
                parted = feed.fork.parted_by(side)
                return [parted] if parted is not None else []
            seq = entry.header.seq
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
        try:
            ours = self._entry_at(author, seq)
        except LocalProtocolError:
            raise ContradictionError("a chain that is not the one of which IDs are here") from None
        proof = find_fork_between(Side(ours), Side(side.entry))
        if proof is None and author in self._contradicted:
            proof = find_fork_between(Side(ours, self._path(feed, ours, Outcome())), side)
        if proof is not None:
            self._contradicted.discard(author)
            return proof
        self._contradicted.add(author)
        if side.entry.is_signed():
            self._unproved[author] = seq
        raise ContradictionError("a chain that is not the one here, and proves no fork")

    def _path(self, feed: Feed, entry: Entry, outcome: Outcome) -> tuple[Entry, ...]:
        """What follows on an entry here, up to one that is signed by itself."""
        path = [entry]
        while not path[-1].is_signed() and len(path) <= MAX_PATH:
            following = self._following(feed, path[-1].header, outcome)
            if not following:
                break
            path += following
        return tuple(path[1:])

    def _following(self, feed: Feed, header: Header, outcome: Outcome) -> tuple[Entry, ...]:
        """What is here of that which follows on an entry, be it in the proof of a fork."""
        place = header.seq + 1
        for entry in (
            self._admitted(feed, place, outcome),
            self._waiting.get(feed.author, place),
        ):
            if entry is not None and entry.header.prev_id == header.id:
                return (entry,)
        for side in feed.fork.earliest if feed.fork is not None else ():
            if side.entry.header.seq == place and side.entry.header.prev_id == header.id:
                return (side.entry, *side.path)
        return ()

    def _against_waiting(self, entries: Sequence[Entry]) -> list[ForkProof]:
        for place, entry in enumerate(entries):
            author, seq = entry.header.author, entry.header.seq
            other = self._waiting.get(author, seq)
            if other is not None and other.id != entry.id:
                feed = self.feeds.get(author) or Feed(author)
                ours = Side(other, self._path(feed, other, Outcome()))
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

    def _contain(self, proof: ForkProof, outcome: Outcome) -> None:
        """Keep only what is before a fork.

        Where that is follows from all entries that have come, in whatever order they did: of those
        that stand at its place it is remembered whether they follow on two different ones, and
        then what is before them is not to be trusted either.
        """
        feed = self.feeds.setdefault(proof.author, Feed(proof.author))
        if feed.fork is not None and feed.fork.seq <= proof.seq:
            if feed.fork.seq == proof.seq and feed.fork.is_within(proof):
                feed.fork = proof
                outcome.forks.append(proof)
                self._check_last(feed, outcome)
            elif feed.fork.seq == proof.seq:
                self._part(feed, proof.earliest, outcome)
            return
        seq = proof.seq
        known = feed.fork.earliest if feed.fork is not None else ()
        found = (self._admitted(feed, seq, outcome), self._waiting.get(feed.author, seq))
        here = [Side(each, self._path(feed, each, outcome)) for each in found if each is not None]
        here += known
        if self.rights is not None:
            for entry_id in feed.ids[seq:]:
                self._are_rights_new |= self.rights.forget(entry_id)
        feed.cut(proof)
        self._waiting.drop(proof.author, seq)
        self._unproved.pop(proof.author, None)
        self._contradicted.discard(proof.author)
        outcome.forks.append(proof)
        self._part(feed, [each for each in here if each.entry.header.seq == seq], outcome)
        self._check_last(feed, outcome)

    def _part(self, feed: Feed, sides: Iterable[Side], outcome: Outcome) -> None:
        """Note on what entries at the place of a fork follow."""
        for side in sides:
            parted = feed.fork.parted_by(side) if feed.fork is not None else None
            if parted is not None:
                feed.fork = parted
                outcome.forks.append(parted)
                self._check_last(feed, outcome)

    def _check_last(self, feed: Feed, outcome: Outcome) -> None:
        """Whether what stands at a fork follows on the last entry before it; if not, that is where
        the author begins to contradict himself.
        """
        if feed.fork is None or not feed.ids or len(feed.ids) != feed.fork.seq:
            return
        for side in feed.fork.earliest:
            if side.entry.header.prev_id != feed.ids[-1]:
                last = self._admitted(feed, len(feed.ids) - 1, outcome)
                if last is None:
                    return
                ours = Side(last, self._path(feed, last, outcome))
                proof = find_fork_between(ours, side)
                if proof is not None:
                    self._contain(proof, outcome)
                    return

    def _admitted(self, feed: Feed, seq: int, outcome: Outcome) -> Entry | None:
        """An entry that is admitted, be it just now; None if there is none, or only its ID."""
        if seq >= len(feed.ids):
            return None
        for entry in reversed(outcome.admitted):  # not kept yet
            if entry.id == feed.ids[seq]:
                return entry
        try:
            return self._entry_at(feed.author, seq)
        except LocalProtocolError:
            return None

    def _keep_tombstones(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """Others' entries depend on these, which are behind a fork: they do not dangle. Nor do
        these: each comes after the one before it on its branch, and after its own dependencies.
        """
        feed = self.feeds.get(entries[0].header.author)
        if feed is None or feed.fork is None:
            return
        behind = [
            entry
            for entry in entries
            if entry.header.seq >= feed.fork.seq and entry.id not in self._known
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
                self._known.add(entry.id)
                self._wanted.discard(entry.id)
                outcome.tombstones.append(entry)

    def _is_wanted(self, entry: Entry) -> bool:
        return entry.id in self._blocked or entry.id in self._wanted

    def _lacking(self, entry: Entry, fork_seq: int) -> set[bytes]:
        """What a tombstone comes after, and is not here."""
        needed = set(entry.header.deps)
        if entry.header.seq > fork_seq:
            needed.add(entry.header.prev_id)
        return needed - self._known

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
        self._refuse(outcome, feed.author, first, "the author writes too fast", is_final=False)
        return False

    def _take(
        self, feed: Feed, entries: list[Entry], peer: object, now_ms: int, outcome: Outcome
    ) -> None:
        """Admit what follows on the feed; keep what does not, as far as there is room."""
        author = feed.author
        left = deque(entries)
        if entries[0].header.seq == len(feed.ids):
            self._follow(feed, left, now_ms, outcome)
        for entry in left:
            if self._waiting.get(author, entry.header.seq) is not None:
                continue
            if not self._waiting.add(entry, peer):
                seq = entry.header.seq
                self._refuse(outcome, author, seq, "too many entries wait", is_final=False)
                break
            outcome.waiting += 1
        self._drain(
            [author, *self._unblocked(outcome.admitted + outcome.tombstones)], now_ms, outcome
        )

    def _follow(self, feed: Feed, left: deque[Entry], now_ms: int, outcome: Outcome) -> None:
        """Admit the entries of `left` that can be, in order; empty it if one never can."""
        while left and self._judge(feed, left[0], now_ms, outcome):
            entry = left.popleft()
            self.feeds.setdefault(feed.author, feed)
            self._admit(feed, entry)
            outcome.admitted.append(entry)
        self._check_last(feed, outcome)
        if outcome.refusals and outcome.refusals[-1].is_final:
            left.clear()

    def _drain(self, authors: Iterable[bytes], now_ms: int, outcome: Outcome) -> None:
        """Admit what waits of these authors and can be, and what waits for that in turn."""
        queue = deque(authors)
        while queue:
            author = queue.popleft()
            feed = self.feeds.get(author) or Feed(author)
            self._early.pop(author, None)
            while (entry := self._waiting.get(author, len(feed.ids))) is not None:
                if entry.header.prev_id != (feed.ids[-1] if feed.ids else self.genesis.doc_id):
                    self._break(feed, entry, outcome)
                    break
                if not self._judge(feed, entry, now_ms, outcome):
                    break
                self._waiting.drop(author, 0, entry.header.seq + 1)
                self.feeds.setdefault(author, feed)
                self._admit(feed, entry)
                outcome.admitted.append(entry)
                queue.extend(self._unblocked([entry]))
            self._check_last(feed, outcome)

    def _break(self, feed: Feed, entry: Entry, outcome: Outcome) -> None:
        """What waited does not follow on what has come."""
        side = Side(entry, self._path(feed, entry, outcome))
        self._waiting.drop(feed.author)
        before = self._admitted(feed, len(feed.ids) - 1, outcome) if feed.ids else None
        proof = find_fork_between(Side(before), side) if before is not None else None
        if proof is not None:
            self._contain(proof, outcome)

    def _judge(self, feed: Feed, entry: Entry, now_ms: int, outcome: Outcome) -> bool:
        """Whether the next entry of a feed can be admitted now."""
        header = entry.header
        reason = self._broken_rule(feed, entry)
        if reason:
            self._waiting.drop(feed.author, header.seq)
            self._refuse(outcome, feed.author, header.seq, reason, is_final=True)
            return False
        if not self._is_allowed(feed, entry, outcome):
            return False
        milliseconds = milliseconds_of(header.hlc)
        if milliseconds > now_ms + self.config.max_future * 1000:
            self._early[feed.author] = milliseconds
            return False
        missing = [dep for dep in header.deps if dep not in self._known]
        for dep in missing:
            self._blocked.setdefault(dep, set()).add(feed.author)
        return not missing

    def _broken_rule(self, feed: Feed, entry: Entry) -> str:
        """Why no replica admits this as the next entry of a feed; empty if nothing is wrong."""
        header, limits = entry.header, self.genesis.limits
        if header.seq and header.hlc <= feed.hlc:
            return "time does not go on"
        if header.seq and header.payload_size > limits.entry_bytes:
            return f"an entry of {header.payload_size} bytes"
        if feed.size + entry.size > limits.author_bytes:
            return "the author's quota is used up"
        if header.seq == 0:
            payload = entry.payload or b""
            try:
                certificate = decode_certificate(payload, header.doc_id, header.author)
            except RemoteProtocolError as error:
                return f"{error}"
            feed.identity = certificate.identity
            try:
                self._learn_certificate(entry)
            except RemoteProtocolError as error:
                return f"{error}"
        return ""

    def _admit(self, feed: Feed, entry: Entry) -> None:
        header = entry.header
        feed.ids.append(entry.id)
        feed.hlc = header.hlc
        feed.size += entry.size
        self._known.add(entry.id)
        self.clock.saw(header.hlc)
        self._learn(feed, entry)

    def _unblocked(self, entries: Iterable[Entry]) -> list[bytes]:
        """Whose entries waited for these."""
        return [author for entry in entries for author in self._blocked.pop(entry.id, ())]

    @staticmethod
    def _refuse(outcome: Outcome, author: bytes, seq: int, reason: str, *, is_final: bool) -> None:
        outcome.refusals.append(Refusal(author, seq, reason, is_final))
