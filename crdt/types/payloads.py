"""The payloads of entries: what one write says.

========  ===================================================
register  `[name, value, replaced]`; a value of nil deletes
counter   `[name, increments, decrements]`, the author's totals
set       `[name, element, is_present, replaced]`
claim     `[name, item, milliseconds]`; 0 gives it back
text      `[name, edits]`, see :mod:`~lattica.crdt.text.edits`
list      the same
========  ===================================================

`replaced` has the IDs of the writes that the author saw there and that this one takes the place of,
in order, the newest 64 if there are more. A payload that is none of these takes no effect, for
every replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.genesis import MAX_ENTRY_BYTES
from lattica.crdt.entries.header import ID_BYTES, Kind
from lattica.crdt.text.edits import Edit, plain_edits, read_edits
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

MAX_NAME: Final = 1024
"""Bytes of UTF-8 of a name."""
MAX_TERM: Final = 24 * 3600 * 1000
"""Milliseconds for which one claim holds at most."""
MAX_REPLACED: Final = 64
"""IDs in `replaced`. Where more stand, several writes replace them: of an author the latest stands.
"""


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """A value for a name."""

    name: str
    value: Plain
    replaced: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, self.value, self.replaced])


@dataclass(frozen=True, slots=True)
class CounterWrite:
    """An author's totals; neither ever decreases."""

    name: str
    increments: int
    decrements: int

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, self.increments, self.decrements])


@dataclass(frozen=True, slots=True)
class SetWrite:
    """An element that is put in or taken out."""

    name: str
    element: Plain
    is_present: bool
    replaced: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, self.element, self.is_present, self.replaced])


@dataclass(frozen=True, slots=True)
class ClaimWrite:
    """A claim to an item, from the entry's time on."""

    name: str
    item: Plain
    term: int
    """Milliseconds."""

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, self.item, self.term])


@dataclass(frozen=True, slots=True)
class TextWrite:
    """Edits of a text."""

    name: str
    edits: tuple[Edit, ...]
    deps: tuple[bytes, ...] = ()
    """The dependencies of its entry. They are in its header, not in the payload."""

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, plain_edits(self.edits)])


@dataclass(frozen=True, slots=True)
class ListWrite:
    """Edits of a list."""

    name: str
    edits: tuple[Edit, ...]
    deps: tuple[bytes, ...] = ()
    """As in :class:`TextWrite`."""

    def encode(self) -> bytes:
        """The payload."""
        return encode([self.name, plain_edits(self.edits)])


Write: TypeAlias = RegisterWrite | CounterWrite | SetWrite | ClaimWrite | TextWrite | ListWrite

KINDS: Final = {
    RegisterWrite: Kind.REGISTER,
    CounterWrite: Kind.COUNTER,
    SetWrite: Kind.SET,
    ClaimWrite: Kind.CLAIM,
    TextWrite: Kind.TEXT,
    ListWrite: Kind.LIST,
}
"""Which kind of entry a write is the payload of."""


def start_of(write: Write) -> bytes:
    """How the payloads of all writes at its place begin: for sets and claims, of its item."""
    match write:
        case RegisterWrite() | CounterWrite():
            return b"\x93" + encode(write.name)
        case SetWrite():
            return b"\x94" + encode(write.name) + encode(write.element)
        case ClaimWrite():
            return b"\x93" + encode(write.name) + encode(write.item)
        case TextWrite() | ListWrite():
            return b"\x92" + encode(write.name)


def check_name(name: object) -> None:
    """Raises LocalProtocolError for what is no name of a register, counter, and so on."""
    if not isinstance(name, str):
        raise LocalProtocolError(f"a name is a text, not {name!r:.100}")
    if (size := len(name.encode(errors="surrogatepass"))) > MAX_NAME:
        raise LocalProtocolError(f"a name has at most {MAX_NAME} bytes, not {size}")


def check_integer(value: object) -> None:
    """Raises LocalProtocolError for what a counter cannot add."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise LocalProtocolError(f"a counter adds integers, not {value!r:.100}")


def decode_write(kind: int, payload: bytes) -> Write | None:
    """What an entry says; None for kinds that are not of a type here.

    Raises:
        RemoteProtocolError: the payload is not what its kind has.
    """
    read = _READERS.get(kind)
    if read is None:
        return None
    write = read(decode(payload, MAX_ENTRY_BYTES))
    if write is None or len(write.name.encode()) > MAX_NAME:
        raise RemoteProtocolError(f"not a payload of kind {kind}")
    return write


def _read_register(value: Plain) -> Write | None:
    # A document has a hundred thousand of them: no `match`, which takes twice as long.
    if type(value) is not list or len(value) != 3:
        return None
    name, content, replaced = value
    if type(name) is not str or type(replaced) is not list:
        return None
    return RegisterWrite(name, content, _ids(replaced))


def _read_set(value: Plain) -> Write | None:
    match value:
        case [str(name), content, bool(is_present), list(replaced)]:
            return SetWrite(name, content, is_present, _ids(replaced))
    return None


def _read_counter(value: Plain) -> Write | None:
    match value:
        case [str(name), increments, decrements] if _is_count(increments) and _is_count(decrements):
            return CounterWrite(name, increments, decrements)
    return None


def _read_claim(value: Plain) -> Write | None:
    match value:
        case [str(name), item, term] if _is_count(term) and term <= MAX_TERM:
            return ClaimWrite(name, item, term)
    return None


def _read_text(value: Plain) -> Write | None:
    match value:
        case [str(name), list(items)] if edits := read_edits(items, str):
            return TextWrite(name, tuple(edits))
    return None


def _read_list(value: Plain) -> Write | None:
    match value:
        case [str(name), list(items)] if edits := read_edits(items, list):
            return ListWrite(name, tuple(edits))
    return None


_READERS: Final[Mapping[int, Callable[[Plain], Write | None]]] = {
    Kind.REGISTER: _read_register,
    Kind.COUNTER: _read_counter,
    Kind.SET: _read_set,
    Kind.CLAIM: _read_claim,
    Kind.TEXT: _read_text,
    Kind.LIST: _read_list,
}


def _is_count(value: Plain) -> TypeGuard[int]:
    return type(value) is int and value >= 0  # `true` is an int, too


def _ids(items: Sequence[object]) -> tuple[bytes, ...]:
    if not items:
        return ()
    ids = tuple(item for item in items if type(item) is bytes and len(item) == ID_BYTES)
    if len(ids) != len(items) or len(ids) > MAX_REPLACED or list(ids) != sorted(set(ids)):
        raise RemoteProtocolError("what was replaced is no IDs, too many, or out of order")
    return ids
