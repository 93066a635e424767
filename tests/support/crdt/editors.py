"""Editors of texts and lists without a file, and a plain model of what their edits come to."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lattica.crdt.base.canonical import Plain
from lattica.crdt.document.editing import ReplicatedList, Text
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.text.edits import Edit, Insert, Place
from lattica.crdt.types.payloads import KINDS, ListWrite, TextWrite, Write, decode_write
from lattica.crdt.types.state import Change, State
from tests.support.crdt.chains import DOC, START, Writer


class Editor:
    """An author with a state of his own. What he writes has the time that `clock` gives."""

    def __init__(self, name: bytes, clock: Iterator[int]) -> None:
        self.genesis = DOC
        self.writer = Writer(name)
        self.author = self.writer.author
        self.state = State(DOC)
        self.chain = list(self.writer.chain(1))
        self.seen = {self.chain[0].id}
        self.clock = clock
        self.text = Text(self, "t")
        self.list = ReplicatedList(self, "t")

    @property
    def next_seq(self) -> int:
        return len(self.chain)

    def editing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def write(self, *writes: Write) -> tuple[Change, ...]:
        for each in writes:
            deps = each.deps if isinstance(each, TextWrite | ListWrite) else ()
            self.sign(KINDS[type(each)], each.encode(), deps)
        return ()

    def sign(self, kind: Kind, payload: bytes, deps: tuple[bytes, ...] = ()) -> Entry:
        before = self.chain[-1]
        hlc = (START << 16) + next(self.clock)
        entry = sign_entry(
            self.writer.session, DOC.doc_id, len(self.chain), before.id, hlc, kind, payload, deps
        )
        self.chain.append(entry)
        self.see(entry)
        return entry

    def see(self, entry: Entry) -> None:
        self.seen.add(entry.id)
        self.state.apply(entry)

    def hear(self, other: Editor, until: int | None = None) -> None:
        """Take the other's entries, as far as what they depend on is here."""
        for entry in other.chain[:until]:
            if entry.id not in self.seen:
                if not self.seen.issuperset({*entry.header.deps, *_previous(entry)}):
                    return
                self.see(entry)


def _previous(entry: Entry) -> tuple[bytes, ...]:
    return (entry.header.prev_id,) if entry.header.seq else ()


def in_causal_order(chains: Sequence[Sequence[Entry]], choose: object) -> list[Entry]:
    """All entries, each after what it depends on; `choose` is a `random.Random`."""
    left, order, seen = [list(chain) for chain in chains], [], set[bytes]()
    while any(left):
        ready = [chain for chain in left if chain and seen.issuperset(chain[0].header.deps)]
        entry = choose.choice(ready).pop(0)  # type: ignore[attr-defined]
        seen.add(entry.id)
        order.append(entry)
    return order


@dataclass(slots=True)
class _Unit:
    at: tuple[bytes, int]
    left: tuple[bytes, int] | None
    right: tuple[bytes, int] | None
    client: int
    content: Plain
    hlc: int
    is_deleted: bool = False


@dataclass
class PlainSequence:
    """One text or list, unit by unit, by Yjs' rule as its `Item.integrate` has it."""

    kind: Kind
    units: list[_Unit] = field(default_factory=list)
    ids: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        header = entry.header
        self.ids[header.author, header.seq] = entry.id
        if header.kind != self.kind or entry.payload is None:
            return
        write = decode_write(header.kind, entry.payload)
        assert isinstance(write, TextWrite | ListWrite)
        kept = [(unit, unit.is_deleted) for unit in self.units]
        try:
            count = 0
            for edit in write.edits:
                count += self._edit(entry, edit, count)
        except LookupError:
            self.units = [unit for unit, _ in kept]
            for unit, was_deleted in kept:
                unit.is_deleted = was_deleted

    def _edit(self, entry: Entry, edit: Edit, count: int) -> int:
        if not isinstance(edit, Insert):
            for offset in range(edit.count):
                place = Place(edit.place.source, edit.place.offset + offset)
                self._find(entry, place).is_deleted = True
            return 0
        left = self._find(entry, edit.left).at if edit.left else None
        right = self._find(entry, edit.right).at if edit.right else None
        if right is not None and self._unit(right).left != left:
            raise LookupError
        client = hashlib.sha256(
            b"lattica/crdt/client/v1\0" + DOC.doc_id + entry.header.author + bytes(4)
        ).digest()
        number = int.from_bytes(client[:8], "big") & (1 << 53) - 1
        for offset, content in enumerate(edit.content, count):
            at = (entry.id, offset)
            self._integrate(_Unit(at, left, right, number, content, entry.header.hlc))
            left = at
        return len(edit.content)

    def _find(self, entry: Entry, place: Place) -> _Unit:
        header = entry.header
        if place.source >= 0:
            entry_id = header.deps[place.source]
        elif place.source == -1:
            entry_id = entry.id
        else:
            entry_id = self.ids[header.author, header.seq + 1 + place.source]
        unit = self._unit((entry_id, place.offset))
        if entry_id != entry.id and unit.hlc >= header.hlc:
            raise LookupError
        return unit

    def _unit(self, at: tuple[bytes, int]) -> _Unit:
        for unit in self.units:
            if unit.at == at:
                return unit
        raise LookupError

    def _integrate(self, unit: _Unit) -> None:
        places = {each.at: index for index, each in enumerate(self.units)}
        target = index = -1 if unit.left is None else places[unit.left]
        before: set[tuple[bytes, int]] = set()
        conflicting: set[tuple[bytes, int]] = set()
        for other in self.units[index + 1 :]:
            if other.at == unit.right:
                break
            index += 1
            before.add(other.at)
            conflicting.add(other.at)
            if other.left == unit.left:
                if other.client < unit.client:
                    target = index
                    conflicting.clear()
                elif other.right == unit.right:
                    break
            elif other.left in before:
                if other.left not in conflicting:
                    target = index
                    conflicting.clear()
            else:
                break
        self.units.insert(target + 1, unit)

    @property
    def content(self) -> list[Plain]:
        return [unit.content for unit in self.units if not unit.is_deleted]
