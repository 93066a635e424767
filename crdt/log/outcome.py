"""What a log says of a call that changed it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lattica.crdt.entries.erasure import Shown
from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry, Kind


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
    pruned: set[bytes] = field(default_factory=set)
    """Authors of whom entries are admitted that are not in it: only what is left of them has
    come."""
    filled: list[Entry] = field(default_factory=list)
    """Admitted entries of which only that was here; these are whole."""
    forks: list[ForkProof] = field(default_factory=list)
    """Proofs that are new; everything of `proof.author` from `proof.seq` on is withdrawn."""
    tombstones: list[Entry] = field(default_factory=list)
    """Entries behind a fork, or that no right covers, and others depend on: kept, without
    effect."""
    resigned: list[Entry] = field(default_factory=list)
    """Entries that were here with a signature that is not their own; these have it."""
    withdrawn: list[tuple[bytes, int]] = field(default_factory=list)
    """Authors, and from which number on their entries do not count any more, because a right was
    taken back."""
    erasures: list[Shown] = field(default_factory=list)
    """Erasures that were not known before."""
    acting: list[Shown] = field(default_factory=list)
    """Erasures that may act since now, or not any more."""
    erased: list[Entry] = field(default_factory=list)
    """Entries that are kept, and whose payloads go."""
    erased_here: list[Entry] = field(default_factory=list)
    """Entries whose payloads have gone by what is written here, which leaves the state as it is."""
    restored: list[Entry] = field(default_factory=list)
    """Entries that were kept without their payloads, and whose erasure does not act any more; these
    have them."""
    settled: set[bytes] = field(default_factory=set)
    """Authors of whom other payloads are missing than before, or may be."""
    has_revived: bool = False
    """Whether something is admitted that was kept without effect."""
    has_other_effects: bool = False
    """Whether something counts for good now that was taken back, so that it may take effect."""
    has_other_owners: bool = False
    """Whether somebody else owns the document than before, or may do less or more as an owner."""
    refusals: list[Refusal] = field(default_factory=list)
    waiting: int = 0
    """Entries that were taken and wait, because something is missing or they are early."""
    says_what_lacks: bool = False
    """Whether it is known by this what is to come before it, so that it can be taken then."""

    @property
    def is_news(self) -> bool:
        """Whether anything has changed but what waits."""
        return bool(
            self.admitted
            or self.pruned
            or self.filled
            or self.forks
            or self.tombstones
            or self.resigned
            or self.withdrawn
            or self.erased
            or self.restored
        )

    @property
    def may_lose(self) -> bool:
        """Whether something that was here may not count, or not take effect, any more, so that what
        it had replaced is needed again.
        """
        return bool(
            self.forks
            or self.withdrawn
            or self.has_other_owners
            or self.acting
            or any(each.header.kind == Kind.REVOKE for each in self.admitted)
        )

    @property
    def says_rights(self) -> bool:
        """Whether what has changed says who may write where."""
        return (
            self.has_other_owners
            or self.has_other_effects
            or any(each.header.kind in (Kind.GRANT, Kind.REVOKE) for each in self.admitted)
        )

    def refuse(self, author: bytes, seq: int, reason: str, *, is_final: bool) -> None:
        """Say that an author's entries from a sequence number on are not admitted."""
        self.refusals.append(Refusal(author, seq, reason, is_final))
