"""What is admitted of one author."""

from __future__ import annotations

from dataclasses import dataclass, field

from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry
from lattica.crdt.keys.session import decode_certificate
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket


@dataclass(slots=True)
class Feed:
    """The chain of one session key, as far as it is admitted."""

    author: bytes
    identity: bytes = b""
    """Who vouches for the session key; known with the first entry."""
    ids: list[bytes] = field(default_factory=list)
    """By sequence number."""
    hlc: int = 0
    """Of the newest entry."""
    size: int = 0
    """Bytes that count for the author's quota."""
    rate: TokenBucket | None = None
    """What he may still send at once, in bytes."""
    fork: ForkProof | None = None
    """The one that contradicts itself earliest; from its place on nothing is admitted."""

    bare: set[int] = field(default_factory=set)
    """Sequence numbers of what has no payload, and is not erased any more: others may have it."""
    is_cut: bool = False
    """Whether entries of it are kept without effect because no right covers them: its own store
    goes on as another session."""

    @property
    def may_grow(self) -> bool:
        """Whether more of it is worth asking for."""
        return self.fork is None or len(self.ids) < self.fork.seq

    def has(self, seq: int, entry_id: bytes) -> bool:
        """Whether an entry is admitted at its place."""
        return 0 <= seq < len(self.ids) and self.ids[seq] == entry_id

    @property
    def lacking(self) -> list[int]:
        """Those of :attr:`bare` that are admitted, in order."""
        return sorted(seq for seq in self.bare if seq < len(self.ids))

    def note_withdrawn(self, seq: int) -> None:
        """An entry is kept that is not admitted."""
        self.is_cut |= self.fork is None or seq < self.fork.seq

    def follow(self, entry: Entry) -> None:
        """Have an entry behind the others."""
        self.ids.append(entry.id)
        self.hlc = entry.header.hlc
        self.size += entry.size

    def cut(self, proof: ForkProof, last: Entry | None) -> None:
        """Keep only what is before a fork, which is earlier than the one that is known; `last` is
        the entry before it, if that is here.
        """
        self.fork = proof
        del self.ids[proof.seq :]
        if last is not None:
            self.hlc = last.header.hlc
        elif not self.ids:
            self.hlc = 0


def identity_in(entry: Entry) -> bytes:
    """Who vouches for the session that an entry is the first of; empty if it is another one, or has
    no certificate.
    """
    if entry.header.seq:
        return b""
    try:
        certificate = decode_certificate(
            entry.payload or b"", entry.header.doc_id, entry.header.author
        )
    except RemoteProtocolError:
        return b""
    return certificate.identity
