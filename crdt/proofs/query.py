"""What is proved: one place of a document's state, or all under a name or prefix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.tree.places import register_key, sequence_key
from lattica.crdt.types.payloads import MAX_NAME
from lattica.nat.base.errors import LocalProtocolError

_HIGHEST: Final = b"\xff" * 64
"""Behind all that can follow on the encoding of a name or item."""


class Scope(IntEnum):
    """How much of it."""

    NAME = 0
    """All of one name: a register, text or list; a counter's totals, a set's elements, claims."""
    ITEM = 1
    """One element of a set, or the claims to one item."""
    PREFIX = 2
    """All registers, texts or lists whose names begin so."""


_SCOPES: Final = {
    Kind.REGISTER: (Scope.NAME, Scope.PREFIX),
    Kind.COUNTER: (Scope.NAME,),
    Kind.SET: (Scope.NAME, Scope.ITEM),
    Kind.CLAIM: (Scope.NAME, Scope.ITEM),
    Kind.TEXT: (Scope.NAME, Scope.PREFIX),
    Kind.LIST: (Scope.NAME, Scope.PREFIX),
}

KeyRange: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked.

    Raises:
        LocalProtocolError: a kind has no such scope, the name is too long or no text, or the item
            is no plain data.
    """

    kind: Kind
    name: str
    scope: Scope = Scope.NAME
    item: Plain = None
    """With :attr:`Scope.ITEM`: which."""

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES.get(self.kind, ()):
            raise LocalProtocolError(f"no proof of a {self.kind.name} by {self.scope.name}")
        if len(self.name.encode(errors="surrogatepass")) > MAX_NAME:
            raise LocalProtocolError(f"a name of more than {MAX_NAME} bytes")
        encode([self.name, self.item])

    @property
    def plain(self) -> list[Plain]:
        """What of it is encoded: `[kind, name, scope, item]`."""
        return [int(self.kind), self.name, int(self.scope), self.item]

    @property
    def prefix(self) -> bytes:
        """What the keys of the tree begin with; where only one place is meant, its key."""
        match self.kind:
            case Kind.REGISTER:
                return register_key(self.name)
            case Kind.TEXT | Kind.LIST:
                return sequence_key(self.kind, self.name)
        mark = {Kind.COUNTER: b"c", Kind.SET: b"s", Kind.CLAIM: b"l"}[self.kind]
        item = encode(self.item) if self.scope == Scope.ITEM else b""
        return mark + encode(self.name) + item

    @property
    def key_range(self) -> KeyRange:
        """The keys of the tree are from the first up to the second, both included."""
        if self.scope == Scope.PREFIX:
            return self.prefix, self.prefix + b"\xff"  # which is in no UTF-8
        is_one = self.kind in (Kind.REGISTER, Kind.TEXT, Kind.LIST)
        if is_one or (self.kind == Kind.SET and self.scope == Scope.ITEM):
            return self.prefix, self.prefix
        return self.prefix, self.prefix + _HIGHEST


def read_query(value: Plain) -> Query:
    """A query from its plain form. Raises LocalProtocolError and ValueError for what is none."""
    match value:
        case [int(kind), str(name), int(scope), item]:
            return Query(Kind(kind), name, Scope(scope), item)
        case _:
            raise ValueError("not a query")
