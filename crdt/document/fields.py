"""Registers, counters, sets and claims as users read and write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lattica.crdt.base.canonical import Plain
from lattica.crdt.types.cell import Sibling
from lattica.crdt.types.payloads import (
    MAX_REPLACED,
    MAX_TERM,
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    Write,
    check_integer,
)
from lattica.crdt.types.state import Change, Holder, State
from lattica.nat.base.checks import check_seconds
from lattica.nat.base.errors import LocalProtocolError


class Fields(Protocol):
    """What a document does for its registers, counters, sets and claims."""

    @property
    def state(self) -> State: ...
    @property
    def author(self) -> bytes: ...
    @property
    def now_ms(self) -> int: ...
    def write(self, *writes: Write) -> tuple[Change, ...]: ...


class Registers:
    """`document.registers["name"] = value`; a value is plain data, None is none."""

    def __init__(self, document: Fields) -> None:
        self._document = document

    def __getitem__(self, name: str) -> Plain:
        value = self._document.state.register(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str) -> Plain:
        """The value of a name; None if it has none."""
        return self._document.state.register(name)

    def __setitem__(self, name: str, value: Plain) -> None:
        """Write a value. Raises what :meth:`Document.write` does."""
        replaced = self._document.state.replaced_at(name)
        self._document.write(*(RegisterWrite(name, value, part) for part in _parts(replaced)))

    def __delitem__(self, name: str) -> None:
        if self.get(name) is None:
            raise KeyError(name)
        self[name] = None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._document.state.registers())

    def items(self) -> Iterator[tuple[str, Plain]]:
        """Names that have a value, and that, in order."""
        return self._document.state.registers()

    def below(self, prefix: str) -> list[tuple[str, Plain]]:
        """What stands at names that begin with a prefix, by the rest of the name, in order."""
        found = self._document.state.registers(prefix)
        return [(name[len(prefix) :], value) for name, value in found]

    def conflicts(self, name: str) -> list[Sibling]:
        """What was written by authors who did not know of each other; see
        :meth:`State.conflicts`.
        """
        return self._document.state.conflicts(name)


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that all add to."""

    _document: Fields
    name: str

    @property
    def value(self) -> int:
        """The sum over all that was added, by everybody whose entries are here."""
        return self._document.state.counter(self.name)

    def add(self, amount: int = 1) -> None:
        """Add a number, which may be negative. Raises what :meth:`Document.write` does."""
        check_integer(amount)
        increments, decrements = self._document.state.totals(self.name, self._document.author)
        self._document.write(
            CounterWrite(self.name, increments + max(amount, 0), decrements + max(-amount, 0))
        )


@dataclass(frozen=True, slots=True)
class ReplicatedSet:
    """Elements, which are plain data."""

    _document: Fields
    name: str

    def add(self, element: Plain) -> None:
        """Put an element in. Raises what :meth:`Document.write` does."""
        self._write(element, is_present=True)

    def discard(self, element: Plain) -> None:
        """Take an element out, if it is in. Raises what :meth:`Document.write` does."""
        if element in self:
            self._write(element, is_present=False)

    def _write(self, element: Plain, *, is_present: bool) -> None:
        replaced = self._document.state.replaced_in(self.name, element)
        self._document.write(
            *(SetWrite(self.name, element, is_present, part) for part in _parts(replaced))
        )

    def __contains__(self, element: Plain) -> bool:
        return self._document.state.has_member(self.name, element)

    def __iter__(self) -> Iterator[Plain]:
        return iter(self._document.state.members(self.name))

    def __len__(self) -> int:
        return len(self._document.state.members(self.name))


@dataclass(frozen=True, slots=True)
class Claims:
    """Items, which are plain data, and who holds them."""

    _document: Fields
    name: str

    def claim(self, item: Plain, term: float) -> bool:
        """Claim an item for `term` seconds, at most a day, or hold it for longer; whether it is
        held by this store, as far as is known here. Another one may have begun before, and not
        be heard of yet. Nothing is written if another one is known to hold it.

        Raises:
            LocalProtocolError: the term is not from 0.001 to 86,400.
        """
        check_seconds("term", term, MAX_TERM / 1000)
        milliseconds = int(term * 1000)
        if not milliseconds:
            raise LocalProtocolError(f"term: at least 0.001 s, not {term}")
        holder = self.holder(item)
        if holder is not None and holder.author != self._document.author:
            return False
        self._document.write(ClaimWrite(self.name, item, milliseconds))
        return self.is_held(item)

    def release(self, item: Plain) -> None:
        """Give an item back, if this store holds it."""
        if self.is_held(item):
            self._document.write(ClaimWrite(self.name, item, 0))

    def is_held(self, item: Plain) -> bool:
        """Whether this store holds an item, as far as is known here."""
        holder = self.holder(item)
        return holder is not None and holder.author == self._document.author

    def holder(self, item: Plain) -> Holder | None:
        """Who holds an item now, as far as is known here."""
        return self._document.state.holder(self.name, item, self._document.now_ms)

    def held(self) -> Sequence[tuple[Plain, Holder]]:
        """The items that somebody holds now."""
        return list(self._document.state.claimed(self.name, self._document.now_ms))


def _parts(replaced: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """What is to be replaced, as much at a time as a write may name; at least once."""
    for start in range(0, len(replaced) or 1, MAX_REPLACED):
        yield replaced[start : start + MAX_REPLACED]
