"""What is admitted of one author."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry, Header, Kind
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


@dataclass(slots=True)
class Run:
    """Entries that have gone behind a feed, and are not admitted yet."""

    hlc: int
    """Of the entry before them."""
    ahead: int = 0
    """How many entries of the author an owner has called final, if all of them come."""
    entries: list[Entry] = field(default_factory=list)
    ids: set[bytes] = field(default_factory=set)
    admitted: list[Entry] = field(default_factory=list)
    """What has been taken out."""
    is_open: bool = False
    """Whether the last of them counts only together with what comes behind it."""
    _is_open: list[bool] = field(default_factory=list)
    """The same of each."""
    has_grants: bool = False
    """Whether they say of rights what may be of use behind them."""

    def add(self, entry: Entry, *, is_named: bool) -> None:
        """Have an entry behind the others; whether it is what an owner has called final."""
        self.entries.append(entry)
        self.ids.add(entry.id)
        self.is_open = self.is_open and not is_named
        self._is_open.append(self.is_open)
        self.has_grants |= entry.header.kind == Kind.GRANT

    def take_whole(self, *, is_vouched: bool) -> list[Entry]:
        """Take out the first, as many as count without what follows: they end with one that is
        signed by itself, or is the last and vouched for.
        """
        end = len(self.entries)
        while end and (
            self._is_open[end - 1]
            or not ((is_vouched and end == len(self.entries)) or self.entries[end - 1].is_signed())
        ):
            end -= 1
        taken = self.entries[:end]
        self.admitted += taken
        if taken:
            del self.entries[:end], self._is_open[:end]
            self.hlc = taken[-1].header.hlc
            self.ids = {each.id for each in self.entries}
            self.has_grants = any(each.header.kind == Kind.GRANT for each in self.entries)
        return taken


class Vouchers:
    """Which entries vouch for admitted ones: of each the next one that is signed by itself, or the
    last before a fork, for which the proof of that does.

    Args:
        feeds: what is admitted, by author.
        entry_at: an admitted entry of a feed, by number; each is asked for once.
    """

    def __init__(self, feeds: Mapping[bytes, Feed], entry_at: Callable[[Feed, int], Entry]) -> None:
        self._feeds = feeds
        self._entry_at = entry_at
        self._known: dict[tuple[bytes, int], Header] = {}

    def at(self, author: bytes, seq: int) -> Header | None:
        """Who vouches for an entry, be it itself; None: there is none."""
        feed = self._feeds.get(author)
        if feed is None or seq >= len(feed.ids):
            return None
        passed: list[tuple[bytes, int]] = []
        voucher = self._known.get((author, seq))
        while voucher is None:
            passed.append((author, seq))
            entry = self._entry_at(feed, seq)
            seq += 1
            if entry.is_signed() or seq == len(feed.ids):
                voucher = entry.header
            else:
                voucher = self._known.get((author, seq))
        self._known.update(dict.fromkeys(passed, voucher))
        return voucher


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
