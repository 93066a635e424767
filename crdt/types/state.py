"""The state of a document: a function of the set of its admitted entries.

Entries are applied in any order that keeps each author's, which the log gives; the result is the
same for all of them. What a fork withdraws is taken out by resolving the rest anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from lattica.crdt.access.keyring import NoReadKeyError
from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.entries.genesis import MAX_ENTRY_BYTES, Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.text.sequence import TextSequence
from lattica.crdt.tree.places import (
    claim_key,
    counter_key,
    encode_standing,
    register_key,
    sequence_key,
    set_key,
)
from lattica.crdt.types.cell import Cell, Sibling
from lattica.crdt.types.names import Names
from lattica.crdt.types.payloads import (
    KINDS,
    ClaimWrite,
    CounterWrite,
    ListWrite,
    RegisterWrite,
    SetWrite,
    TextWrite,
    Write,
    decode_write,
)
from lattica.crdt.types.sequences import Sequences
from lattica.nat.base.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Change:
    """A place whose content may be another one now."""

    kind: Kind
    name: str
    item: Plain = None
    """Of sets and claims: which element."""


@dataclass(slots=True)
class _Run:
    """Claims of one author that follow on each other without a gap."""

    since: int
    """Hybrid time of the first."""
    until: int
    """Milliseconds since 1970 at which the last of them ends."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an item."""

    author: bytes
    """The session key."""
    since: int
    """Hybrid time of the first claim."""
    until: int
    """Milliseconds since 1970 at which it ends if it is not renewed."""


_NO_CELL: Final = Cell()


class State:
    """Registers, counters, sets, claims, texts and lists of one document."""

    def __init__(
        self,
        genesis: Genesis,
        has_effect: Callable[[Entry, str], bool] | None = None,
        open_payload: Callable[[Entry], bytes | None] | None = None,
        erasures: Callable[[], Erasures] | None = None,
    ) -> None:
        self._genesis = genesis
        self.go_on(has_effect, open_payload, erasures)
        self._sequences = Sequences(genesis.doc_id)
        self._clear()

    def go_on(
        self,
        has_effect: Callable[[Entry, str], bool] | None,
        open_payload: Callable[[Entry], bytes | None] | None,
        erasures: Callable[[], Erasures] | None,
    ) -> None:
        """Have others say of what comes next what these say, who have said the same so far."""
        self._has_effect = has_effect
        """Whether an entry may write at a name; None: all may."""
        self._open_payload = open_payload if self._genesis.is_sealed else None
        """What an entry of a sealed document says; see :meth:`Keyring.open`."""
        self._erasures = erasures
        """What is erased; None: nothing."""

    def _clear(self) -> None:
        self._registers: dict[str, Cell] = {}
        self._names = Names()
        """Of these."""
        self._counters: dict[str, dict[bytes, tuple[int, int]]] = {}
        self._sets: dict[str, dict[bytes, Cell]] = {}
        self._claims: dict[str, dict[bytes, dict[bytes, _Run]]] = {}
        self._sequences.clear()
        self.unread = 0
        """Entries that may say something, and are sealed with a key that is not here."""

    # What comes in.

    def apply(self, entry: Entry) -> Change | None:
        """Take the next admitted entry; None if it changes nothing.

        An entry without its payload or that is erased, of a kind that the document does not have,
        or whose payload breaks the format takes no effect.
        """
        write = self._take(entry)
        match write:
            case None:
                return None
            case SetWrite():
                return Change(Kind.SET, write.name, write.element)
            case ClaimWrite():
                return Change(Kind.CLAIM, write.name, write.item)
        return Change(KINDS[type(write)], write.name)

    def _take(self, entry: Entry) -> Write | None:
        """As :meth:`apply`; what takes effect."""
        header = entry.header
        erasures = self._erasures() if self._erasures is not None else None
        if erasures is not None and erasures.erases(header):
            return None
        try:
            entry = self._opened(entry)
        except NoReadKeyError:
            self.unread += 1
            return None
        if entry.payload is None or not self._genesis.allows(header.kind):
            return None
        try:
            write = decode_write(header.kind, entry.payload)
        except RemoteProtocolError:
            return None
        if write is None or (self._has_effect and not self._has_effect(entry, write.name)):
            return None
        is_replaced = erasures is not None and erasures.replaces(entry, write.name)
        match write:
            case RegisterWrite():
                cell = self._registers.get(write.name)
                if cell is None:
                    cell = self._registers[write.name] = Cell()
                    self._names.add(write.name)
                _write(cell, _sibling(entry, write.value), write.replaced, is_replaced=is_replaced)
            case SetWrite():
                elements = self._sets.setdefault(write.name, {})
                cell = elements.setdefault(encode(write.element), Cell())
                sibling = _sibling(entry, write.is_present)
                _write(cell, sibling, write.replaced, is_replaced=is_replaced)
            case CounterWrite():
                totals = self._counters.setdefault(write.name, {})
                before = totals.get(header.author, (0, 0))
                # A decrease would be a fault of its author, who has signed both: it counts nothing.
                totals[header.author] = (
                    max(before[0], write.increments),
                    max(before[1], write.decrements),
                )
            case ClaimWrite():
                self._claim(entry, write)
            case TextWrite() | ListWrite():
                return write if self._sequences.apply(entry, write) else None
        return write

    def _opened(self, entry: Entry) -> Entry:
        """The entry with what its payload says, if anything. Raises NoReadKeyError."""
        if self._open_payload is None or entry.payload is None:
            return entry
        payload = self._open_payload(entry)
        return entry if payload is entry.payload else replace(entry, payload=payload)

    def withdraw(self, entry: Entry) -> None:
        """Take an entry that a fork withdraws, before those that depend on it."""
        try:
            entry = self._opened(entry)
        except NoReadKeyError:
            entry = replace(entry, payload=None)
        self._sequences.withdraw(entry)

    @property
    def is_settled(self) -> bool:
        """Whether it is what other replicas have; otherwise it has to be resolved anew, which a
        stranger can bring about only by trying millions of keys.
        """
        return self._sequences.is_settled

    def rebuild(
        self,
        entries: Callable[[], Iterable[Entry]],
        withdrawn: Callable[[], Iterable[Entry]] = tuple,
    ) -> None:
        """Resolve anew, from all admitted entries and those that forks have withdrawn; of texts
        and lists in the order of their times. Both are read again until it is settled.
        """
        finish(self.rebuilding(lambda: [entries()], withdrawn))

    def rebuilding(
        self,
        batches: Callable[[], Iterable[Iterable[Entry]]],
        withdrawn: Callable[[], Iterable[Entry]],
    ) -> Turns[None]:
        """As :meth:`rebuild`, with a turn for each batch."""
        is_settled = False
        while not is_settled:
            self._clear()
            for entry in withdrawn():
                self.withdraw(entry)
            for batch in batches():
                for entry in batch:
                    self._take(entry)
                yield
            is_settled = self.is_settled

    def _claim(self, entry: Entry, write: ClaimWrite) -> None:
        header = entry.header
        runs = self._claims.setdefault(write.name, {}).setdefault(encode(write.item), {})
        now = milliseconds_of(header.hlc)
        run = runs.get(header.author)
        if run is None or run.until <= now:
            runs[header.author] = _Run(header.hlc, now + write.term)
        else:
            run.until = now + write.term

    # Registers.

    def register(self, name: str) -> Plain:
        """The value of a name; nil if it has none."""
        winner = self._registers.get(name, _NO_CELL).winner
        return None if winner is None else winner.value

    def conflicts(self, name: str) -> list[Sibling]:
        """What was written at the same time by authors who did not know of each other, the winner
        first; one or none where there is no conflict.
        """
        return self._registers.get(name, _NO_CELL).siblings

    def winners(self, prefix: str) -> Iterator[Sibling]:
        """The writes that won, at registers whose names begin so, in order."""
        for name in self._names.beginning(prefix):
            if (winner := self._registers[name].winner) is not None:
                yield winner

    def registers(self, prefix: str = "") -> Iterator[tuple[str, Plain]]:
        """Names that begin so and have a value, and that, in order."""
        for name in self._names.beginning(prefix):
            value = self.register(name)
            if value is not None:
                yield name, value

    # Counters.

    def counter(self, name: str) -> int:
        """The sum over all authors."""
        return sum(
            increments - decrements
            for increments, decrements in self._counters.get(name, {}).values()
        )

    def totals(self, name: str, author: bytes) -> tuple[int, int]:
        """What one author has added and taken away, for his next write."""
        return self._counters.get(name, {}).get(author, (0, 0))

    def counters(self) -> Iterator[tuple[str, int]]:
        """Names that were counted at, in order."""
        for name in sorted(self._counters):
            yield name, self.counter(name)

    # Sets.

    def members(self, name: str) -> list[Plain]:
        """The elements of a set, in order of their encodings.

        An element is there if one who put it in was not known to all who took it out.
        """
        return [
            decode(element, MAX_ENTRY_BYTES)
            for element, cell in sorted(self._sets.get(name, {}).items())
            if _is_present(cell)
        ]

    def has_member(self, name: str, element: Plain) -> bool:
        """Whether an element is in a set. Raises LocalProtocolError for what is not plain data."""
        return _is_present(self._sets.get(name, {}).get(encode(element), _NO_CELL))

    def winners_in(self, name: str, element: bytes | None) -> Iterator[Sibling]:
        """The writes that won, at an element of a set, or at all, in order of their encodings."""
        cells = self._sets.get(name, {})
        for each in sorted(cells) if element is None else (element,):
            if (winner := cells.get(each, _NO_CELL).winner) is not None:
                yield winner

    def sets(self) -> tuple[str, ...]:
        """Names of sets that were written to, in order."""
        return tuple(sorted(self._sets))

    # Texts and lists.

    def text(self, name: str) -> str:
        """A text; empty if it was never written. Raises LocalProtocolError without pycrdt."""
        return self._sequences.get(Kind.TEXT, name).text()

    def elements(self, name: str) -> list[Plain]:
        """The elements of a list. Raises LocalProtocolError without pycrdt."""
        return self._sequences.get(Kind.LIST, name).values()

    def sequence(self, kind: Kind, name: str) -> TextSequence:
        """A text or list to edit."""
        return self._sequences.get(kind, name)

    def sequences(self, kind: Kind) -> tuple[str, ...]:
        """Names of texts or lists that were written to, in order."""
        return self._sequences.names(kind)

    # The whole.

    def standing(self) -> set[bytes]:
        """IDs of the writes that stand at registers and in sets."""
        cells = [*self._registers.values()]
        for elements in self._sets.values():
            cells += elements.values()
        return {entry_id for cell in cells for entry_id in cell.standing}

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All of it as keys and values of the tree, in no order.

        Raises LocalProtocolError if there are texts or lists, and pycrdt is not installed.
        """
        for name, cell in self._registers.items():
            if cell.standing:  # else something that is erased has replaced all
                yield register_key(name), _standing(cell)
        for name, totals in self._counters.items():
            for author, pair in totals.items():
                yield counter_key(name, author), encode(pair)
        for name, elements in self._sets.items():
            for element, cell in elements.items():
                if cell.standing:
                    yield set_key(name, element), _standing(cell)
        for name, claims in self._claims.items():
            for item, runs in claims.items():
                for author, run in runs.items():
                    yield claim_key(name, item, author), encode([run.since, run.until])
        for kind in (Kind.TEXT, Kind.LIST):
            for name in self._sequences.names(kind):
                yield sequence_key(kind, name), encode(self._sequences.get(kind, name).digest())

    # What the next write at a place replaces.

    def replaced_at(self, name: str) -> tuple[bytes, ...]:
        """IDs of what is to be replaced where a register is written to."""
        return _ids(self._registers.get(name, _NO_CELL))

    def replaced_in(self, name: str, element: Plain) -> tuple[bytes, ...]:
        """IDs of what is to be replaced where an element of a set is written."""
        return _ids(self._sets.get(name, {}).get(encode(element), _NO_CELL))

    # Claims.

    def holder(self, name: str, item: Plain, now_ms: int) -> Holder | None:
        """Who holds an item at a time; None if nobody does.

        Of several whose claims overlap it is who began first, then whose session key is less.
        """
        runs = self._claims.get(name, {}).get(encode(item), {})
        holders = [
            Holder(author, run.since, run.until)
            for author, run in runs.items()
            if run.until > now_ms
        ]
        return min(holders, key=lambda each: (each.since, each.author), default=None)

    def claimed(self, name: str, now_ms: int) -> Iterator[tuple[Plain, Holder]]:
        """The items that somebody holds, in order of their encodings."""
        for encoded in sorted(self._claims.get(name, {})):
            item = decode(encoded, MAX_ENTRY_BYTES)
            holder = self.holder(name, item, now_ms)
            if holder is not None:
                yield item, holder


def _sibling(entry: Entry, value: Plain) -> Sibling:
    return Sibling(entry.header.hlc, entry.header.author, entry.id, value)


def _write(cell: Cell, sibling: Sibling, replaced: tuple[bytes, ...], *, is_replaced: bool) -> None:
    cell.write(sibling, replaced)
    if is_replaced:
        cell.replace(sibling)


def _standing(cell: Cell) -> bytes:
    return encode_standing([(each.value, each.entry_id) for each in cell.siblings])


def _is_present(cell: Cell) -> bool:
    return any(sibling.value is True for sibling in cell.siblings)


def _ids(cell: Cell) -> tuple[bytes, ...]:
    return tuple(sorted(cell.standing))
