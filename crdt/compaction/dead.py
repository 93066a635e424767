"""Which entries a document's state does not need any more.

What has no effect can go if nothing depends on it to have none: a write that was replaced, once all
that it replaced itself is gone; a counter's totals that were topped; claims before a gap. Texts and
lists need all their edits, and each author's first and newest entry stay.

Where rights are given and taken back, only what takes effect whatever comes can go, and have
others go: of the rest it is not known what it will do, so it stays, with what has replaced it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from lattica.crdt.access.keyring import NoReadKeyError
from lattica.crdt.base.canonical import encode
from lattica.crdt.entries.header import Entry, Header
from lattica.crdt.entries.remnant import PRUNABLE
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.types.payloads import (
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    Write,
    decode_write,
)
from lattica.nat.base.errors import RemoteProtocolError


@dataclass(slots=True)
class _Totals:
    """The entries of one author that have a counter's totals."""

    increments: int = -1
    decrements: int = -1
    by_increments: Entry | None = None
    by_decrements: Entry | None = None


@dataclass(slots=True)
class Sweep:
    """Finds what can go among all entries that are admitted, which are taken by their times."""

    before_ms: int
    """What is of this time or later stays."""
    standing: Collection[bytes]
    """IDs of the writes that stand, of registers and sets."""
    knows: Callable[[bytes], bool]
    """Whether an entry has come, and is gone through."""
    newest: Mapping[bytes, int]
    """Of how many entries of each author it is asked; the last of them stays."""
    is_erased: Callable[[Header], bool]
    """Whether an entry is erased for good."""
    opened: Callable[[Entry], bytes | None] = lambda entry: entry.payload
    """What an entry says, which may be sealed; raises NoReadKeyError."""
    lasts: Callable[[Entry, str], bool] = lambda entry, name: True
    """Whether an entry takes effect at a name for good."""
    dead: list[tuple[bytes, int]] = field(default_factory=list)
    """Authors and sequence numbers of what can go, in the order in which it may: a write after
    what it replaced."""
    retained: set[bytes] = field(default_factory=set)
    retained_at: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Author and place of writes that are retained and do not stand."""
    unread: set[bytes] = field(default_factory=set)
    """Authors of something that cannot be read here: nobody knows where it writes at."""
    broken: set[tuple[bytes, str, bytes]] = field(default_factory=set)
    """Where there are claims of which it is not known whether they take effect."""
    totals: dict[tuple[bytes, str], _Totals] = field(default_factory=dict)
    runs: dict[tuple[bytes, str, bytes], tuple[int, list[Entry]]] = field(default_factory=dict)

    def may_go(self, entry: Entry) -> bool:
        header = entry.header
        is_old = milliseconds_of(header.hlc) < self.before_ms
        return is_old and header.seq + 1 != self.newest[header.author]

    def drop(self, entry: Entry) -> None:
        self.dead.append((entry.header.author, entry.header.seq))

    def write(self, entry: Entry, place: bytes, replaced: tuple[bytes, ...]) -> None:
        author = entry.header.author
        if (
            entry.id not in self.standing
            and self.may_go(entry)
            and (author, place) not in self.retained_at
            and author not in self.unread
            and all(self.knows(each) and each not in self.retained for each in replaced)
        ):
            self.drop(entry)
            return
        self.retained.add(entry.id)
        if entry.id not in self.standing:
            self.retained_at.add((author, place))

    def count(self, entry: Entry, write: CounterWrite) -> None:
        totals = self.totals.setdefault((entry.header.author, write.name), _Totals())
        topped: list[Entry | None] = []
        if write.increments >= totals.increments:
            topped.append(totals.by_increments)
            totals.increments, totals.by_increments = write.increments, entry
        if write.decrements >= totals.decrements:
            topped.append(totals.by_decrements)
            totals.decrements, totals.by_decrements = write.decrements, entry
        kept = (totals.by_increments, totals.by_decrements)
        for each in {id(each): each for each in [*topped, entry]}.values():
            if each is not None and all(each is not one for one in kept) and self.may_go(each):
                self.drop(each)

    def claim(self, entry: Entry, write: ClaimWrite) -> None:
        key = _claimed(entry, write)
        now = milliseconds_of(entry.header.hlc)
        until, entries = self.runs.get(key, (0, []))
        if until <= now:
            for each in entries:
                if self.may_go(each) and key not in self.broken and key[0] not in self.unread:
                    self.drop(each)
            entries = []
        self.runs[key] = (now + write.term, [*entries, entry])

    def leave(self, entry: Entry, write: Write) -> None:
        """Leave an entry of which it is not known whether it takes effect."""
        self.retained.add(entry.id)
        match write:
            case RegisterWrite() | SetWrite():
                self.retained_at.add((entry.header.author, _written(write)))
            case ClaimWrite():
                self.broken.add(_claimed(entry, write))

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        if entry.header.kind not in PRUNABLE:
            return
        if self.is_erased(entry.header):
            if self.may_go(entry):
                self.drop(entry)
            return
        try:
            payload = self.opened(entry)
        except NoReadKeyError:
            payload = None
        if payload is None:
            self.retained.add(entry.id)
            self.unread.add(entry.header.author)
            return
        try:
            write = decode_write(entry.header.kind, payload)
        except RemoteProtocolError:
            if self.may_go(entry):
                self.drop(entry)
            return
        if write is not None and not self.lasts(entry, write.name):
            self.leave(entry, write)
            return
        match write:
            case RegisterWrite() | SetWrite():
                self.write(entry, _written(write), write.replaced)
            case CounterWrite():
                self.count(entry, write)
            case ClaimWrite():
                self.claim(entry, write)


def _written(write: RegisterWrite | SetWrite) -> bytes:
    """The place of a register, or of an element of a set."""
    if isinstance(write, RegisterWrite):
        return b"r" + write.name.encode()
    return b"s" + encode(write.name) + encode(write.element)


def _claimed(entry: Entry, write: ClaimWrite) -> tuple[bytes, str, bytes]:
    return entry.header.author, write.name, encode(write.item)
