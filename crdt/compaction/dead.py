"""Which entries a document's state does not need any more.

What has no effect can go if nothing depends on it to have none: a write that was replaced, once all
that it replaced itself is gone; a counter's totals that were topped; claims before a gap. Texts and
lists need all their edits, and each author's first and newest entry stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from lattica.crdt.base.canonical import encode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.types.payloads import (
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    decode_write,
)
from lattica.nat.base.errors import RemoteProtocolError

_KINDS: Final = frozenset({Kind.REGISTER, Kind.COUNTER, Kind.SET, Kind.CLAIM})


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
    """Whether an entry has come."""
    newest: Mapping[bytes, int]
    """How many entries each author has."""
    erasures: Callable[[], Erasures]
    dead: list[tuple[bytes, int]] = field(default_factory=list)
    """Authors and sequence numbers of what can go, in the order in which it may: a write after
    what it replaced."""
    retained: set[bytes] = field(default_factory=set)
    retained_at: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Author and place of writes that are retained and do not stand."""
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
        key = (entry.header.author, write.name, encode(write.item))
        now = milliseconds_of(entry.header.hlc)
        until, entries = self.runs.get(key, (0, []))
        if until <= now:
            for each in entries:
                if self.may_go(each):
                    self.drop(each)
            entries = []
        self.runs[key] = (now + write.term, [*entries, entry])

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        if self.erasures().erases(entry.header):
            if self.may_go(entry):
                self.drop(entry)
            return
        if entry.header.kind not in _KINDS or entry.payload is None:
            return
        try:
            write = decode_write(entry.header.kind, entry.payload)
        except RemoteProtocolError:
            if self.may_go(entry):
                self.drop(entry)
            return
        match write:
            case RegisterWrite():
                self.write(entry, b"r" + write.name.encode(), write.replaced)
            case SetWrite():
                place = b"s" + encode(write.name) + encode(write.element)
                self.write(entry, place, write.replaced)
            case CounterWrite():
                self.count(entry, write)
            case ClaimWrite():
                self.claim(entry, write)
