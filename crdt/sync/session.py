"""One exchange between two replicas, in turns: pure. Messages go in and come out.

The opener says what it has (:mod:`lattica.crdt.sync.ranges`), and then each side in turn answers
what the other has said: ranges that differ with smaller ones, heads with the entries that the
other lacks and with what is wanted of it, and wants with entries. A turn without ranges and wants
asks for nothing, so with it the exchange is over. What came before a stream breaks is admitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from lattica.crdt.log.errors import ContradictionError
from lattica.crdt.log.outcome import Refusal
from lattica.crdt.sync.heads import ID_PREFIX, Head, HeadIndex
from lattica.crdt.sync.messages import (
    PRUNED,
    TURN,
    Entries,
    Fork,
    Message,
    Pruned,
    Ranges,
    Turn,
    Want,
    Wants,
    decode_message,
    encode_entries,
    encode_fork_message,
    encode_ranges,
    encode_wants,
)
from lattica.crdt.sync.ranges import Difference, Range, answer_ranges, first_ranges
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

MAX_TURNS: Final = 24
"""Of both sides together."""
MAX_RANGES_A_TURN: Final = 65_536
MAX_WANTS_A_TURN: Final = 131_072
MAX_USELESS_BYTES: Final = 16 * 1024 * 1024
"""Of entries and proofs that change nothing here; not every one of them is the sender's fault."""


class SyncResult(Protocol):
    """What came of something that was received."""

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was not taken."""
        ...

    @property
    def waiting(self) -> int:
        """Entries that wait for others, or for their time."""
        ...

    @property
    def is_news(self) -> bool:
        """Whether it changed anything here."""
        ...

    @property
    def is_of_use(self) -> bool:
        """Whether it did, or says what is to come first."""
        ...


class SyncSource(Protocol):
    """A document, as an exchange needs it."""

    @property
    def head_index(self) -> HeadIndex:
        """How far each author is here."""
        ...

    def id_at(self, author: bytes, seq: int) -> bytes | None:
        """The ID of an admitted entry."""
        ...

    @property
    def capability(self) -> bytes:
        """By which this replica reads; empty if it shows none."""
        ...

    def may_pull(self, peer: PeerId, shown: bytes = b"") -> bool:
        """Whether a peer, which shows a capability, is told of the document."""
        ...

    def comes_first(self, author: bytes) -> bool:
        """Whether others need an author's entries to take those of the rest."""
        ...

    def chains_of(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of an author's entries from a sequence number on."""
        ...

    def withdrawn_for(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of what forks have withdrawn and these entries depend on."""
        ...

    def has_gap(self, author: bytes, since: int) -> bool:
        """Whether they cannot all be had as chains."""
        ...

    def fork_of(self, author: bytes) -> bytes | None:
        """The proof that an author contradicts himself."""
        ...

    def receive(self, chain: bytes, peer: object) -> SyncResult:
        """Take a chain. Raises RemoteProtocolError."""
        ...

    def receive_fork(self, proof: bytes) -> SyncResult:
        """Take a proof. Raises RemoteProtocolError."""
        ...


@dataclass(slots=True)
class SyncCounts:
    """What an exchange has cost and brought."""

    turns: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    news: int = 0
    """Messages that changed something here."""
    refused: int = 0
    """Chains of which something was not taken."""
    skipped: int = 0
    """Authors who were not asked for, because asking has lately brought nothing."""


class SyncSession:
    """An exchange, from the side that opens it or the other.

    Args:
        source: the document here.
        peer: who the other side is, for budgets of what waits.
        nonce: that of the hello; fingerprints are made with it.
        is_opener: whether this side speaks first.
        may_ask: whether to ask for an author of whom the other side has this head.
        tells: whether the other side gets anything that is here; without it this one only listens,
            as if nothing were here.
    """

    def __init__(
        self,
        source: SyncSource,
        peer: object,
        nonce: bytes,
        *,
        is_opener: bool,
        may_ask: _MayAsk | None = None,
        tells: bool = True,
    ) -> None:
        self._source = source
        self._tells = tells
        self._peer = peer
        self._nonce = nonce
        self._may_ask = may_ask or _always
        self._ranges: list[Range] = []
        self._wants: dict[bytes, Want] = {}
        self._useless = 0
        self._is_begun = not is_opener
        self._is_answer_due = False
        self.counts = SyncCounts()
        self.is_over = False
        """Whether neither side wants anything more."""
        self.asked: dict[bytes, Head] = {}
        """By author, what the other side has that was asked for here."""
        self.needs_snapshot = False
        """Whether the other side has something that is to be had as a snapshot alone."""
        self.has_heard = False
        """Whether the other side has said that it has anything: who only listens does not."""
        self._is_gap_told = False

    def turn(self) -> Iterator[bytes]:
        """The messages of this side's turn, made as they are asked for. To be taken to the end,
        whenever :meth:`take` has said that it is this side's turn, and first by the opener.
        """
        if self._is_begun:
            ranges, differences = answer_ranges(self._index, self._nonce, self._taken_ranges())
            served, self._wants = [*self._wants.values()] if self._tells else [], {}
            differences.sort(key=lambda each: not self._source.comes_first(each.author))
            served.sort(key=lambda each: not self._source.comes_first(each.author))
            wants = [want for each in differences if (want := self._want(each)) is not None]
            yield from self._counted(self._entries(differences, served))
        else:
            self._is_begun = True
            ranges, wants = first_ranges(self._index, self._nonce), []
        yield from self._counted(encode_ranges(ranges))
        yield from self._counted(encode_wants(wants))
        self.counts.turns += 1
        self.is_over = not ranges and not wants
        yield from self._counted([TURN])

    def take(self, data: bytes) -> bool:
        """Take a message; True if it is this side's turn now, or the exchange is over.

        Raises:
            RemoteProtocolError: it is none, or breaks a rule.
            StoreError: what it brings cannot be kept.
        """
        self.counts.received_bytes += len(data)
        message: Message = decode_message(data)
        match message:
            case Turn():
                return self._end_turn()
            case Ranges(ranges):
                # As within a message: comparing them costs no more than going through the index.
                last = self._ranges[-1] if self._ranges else None
                if last is not None and (last.high is None or last.high > ranges[0].low):
                    raise RemoteProtocolError("ranges that overlap those of another message")
                self._ranges += ranges
                self.has_heard |= any(each.content for each in ranges)
                if len(self._ranges) > MAX_RANGES_A_TURN:
                    raise RemoteProtocolError("more ranges in one turn than any replica needs")
            case Wants(wants):
                for want in wants:
                    if want.author in self._wants:
                        raise RemoteProtocolError("an author who is wanted twice in a turn")
                    self._wants[want.author] = want
                if len(self._wants) > MAX_WANTS_A_TURN:
                    raise RemoteProtocolError("more wants in one turn than any replica needs")
            case Entries(chain):
                try:
                    result = self._source.receive(chain, self._peer)
                except ContradictionError:
                    self.counts.refused += 1  # of this author nothing more comes; of others it does
                else:
                    self._note(result, len(data))
            case Fork(proof):
                self._note(self._source.receive_fork(proof), len(data))
            case Pruned():
                self.needs_snapshot = True
            case _:
                raise RemoteProtocolError("a message that does not belong into an exchange")
        return False

    def _end_turn(self) -> bool:
        self.counts.turns += 1
        if self.counts.turns > MAX_TURNS:
            raise RemoteProtocolError("an exchange that does not come to an end")
        self.is_over = not self._ranges and not self._wants
        return True

    def _note(self, result: SyncResult, size: int) -> None:
        self.counts.refused += bool(result.refusals)
        self.counts.news += result.is_news
        if result.is_of_use:
            return
        self._useless += size
        if self._useless > MAX_USELESS_BYTES:
            raise RemoteProtocolError("a peer that goes on with what is of no use here")

    def _counted(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        for message in messages:
            self.counts.sent_bytes += len(message)
            yield message

    @property
    def _index(self) -> HeadIndex:
        return self._source.head_index if self._tells else HeadIndex()

    def _taken_ranges(self) -> list[Range]:
        ranges, self._ranges = self._ranges, []
        return ranges

    # Differences.

    def _want(self, difference: Difference) -> Want | None:
        """What to ask the other side for, if it has more than is here."""
        ours, theirs = difference.ours, difference.theirs
        if theirs is None:
            return None
        author = difference.author
        fork = theirs.fork is not None and _earlier(theirs.fork, ours.fork if ours else None)
        length = ours.length if ours else 0
        since: int | None = None
        if self._contradicts(ours, theirs):
            since = 0  # the first place that differs proves the most
        elif ours is not None and ours.fork is not None and length >= ours.fork:
            pass  # nothing of it is admitted any more
        elif theirs.length > length:
            since = length
        if since != 0 and ours is not None and (missed := ours.misses(theirs)) is not None:
            since = missed
        if since is None and not fork:
            return None
        if not self._may_ask(theirs):
            self.counts.skipped += 1
            return None
        self.asked[author] = theirs
        return Want(author, theirs.length if since is None else since, fork)

    def _contradicts(self, ours: Head | None, theirs: Head) -> bool:
        """Whether the other side's newest entry is not the one here, in a chain as long."""
        if ours is None or not 0 < theirs.length <= ours.length:
            return False
        known = self._source.id_at(theirs.author, theirs.length - 1)
        return known is not None and known[:ID_PREFIX] != theirs.newest

    def _entries(
        self, differences: Iterable[Difference], served: Iterable[Want]
    ) -> Iterator[bytes]:
        """What the other side lacks, and what it has asked for."""
        for each in differences:
            ours, theirs = each.ours, each.theirs
            if ours is None:
                continue
            their_fork = theirs.fork if theirs else None
            if ours.fork is not None and _earlier(ours.fork, their_fork):
                yield from self._fork_of(each.author)
            length = theirs.length if theirs else 0
            missed = theirs.misses(ours) if theirs is not None else None
            is_closed = their_fork is not None and length >= their_fork
            if theirs is not None and self._contradicts(ours, theirs):
                yield from self._chains_of(each.author, 0)
            elif missed is not None:
                yield from self._chains_of(each.author, missed)
            elif ours.length > length and not is_closed:
                yield from self._chains_of(each.author, length)
        for want in served:
            if want.fork:
                yield from self._fork_of(want.author)
            yield from self._chains_of(want.author, want.since)

    def _chains_of(self, author: bytes, since: int) -> Iterator[bytes]:
        for chain in self._source.chains_of(author, since):
            yield encode_entries(chain)
        # Behind what depends on it: it is taken where something waits for it.
        for chain in self._source.withdrawn_for(author, since):
            yield encode_entries(chain)
        if not self._source.has_gap(author, since):
            return
        if not self._is_gap_told:
            self._is_gap_told = True
            yield PRUNED
        # Should the other side have another chain, this proves it.
        head = self._source.head_index.get(author)
        for chain in self._source.chains_of(author, head.length - 1) if head else ():
            yield encode_entries(chain)

    def _fork_of(self, author: bytes) -> Iterator[bytes]:
        proof = self._source.fork_of(author)
        if proof is not None:
            yield encode_fork_message(proof)


class _MayAsk(Protocol):
    def __call__(self, theirs: Head, /) -> bool: ...


def _always(theirs: Head) -> bool:
    return True


def _earlier(one: int, other: int | None) -> bool:
    return other is None or one < other
