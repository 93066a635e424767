"""Texts and lists as users edit them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, overload

from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Kind
from lattica.crdt.text.drafts import Drafts
from lattica.crdt.text.engine import Engine
from lattica.crdt.text.sequence import TextSequence
from lattica.crdt.text.update_v1 import Update
from lattica.crdt.types.payloads import ListWrite, TextWrite, Write
from lattica.crdt.types.state import Change, State
from lattica.nat.base.checks import check_count, check_several, check_type
from lattica.nat.base.errors import LocalProtocolError

_FRAME_BYTES: Final = 128
"""Of a payload, beside the name and the edits."""


class Editable(Protocol):
    """What a document does for its texts and lists."""

    genesis: Genesis

    @property
    def state(self) -> State: ...
    @property
    def author(self) -> bytes: ...
    @property
    def next_seq(self) -> int: ...
    def editing(self) -> AbstractContextManager[None]: ...
    def write(self, *writes: Write) -> tuple[Change, ...]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text that all edit; indices and lengths are those of a Python string.

    Each call is one or more entries, all of them or none, on disk when it returns. They raise what
    :meth:`Document.write` does, and LocalProtocolError where pycrdt is missing.
    """

    _document: Editable
    name: str

    def __str__(self) -> str:
        return self._document.state.text(self.name)

    def __len__(self) -> int:
        return len(str(self))

    def insert(self, index: int, text: str) -> None:
        """Put a text in before the code point at an index."""
        self.replace(index, index, text)

    def append(self, text: str) -> None:
        """Put a text in at the end."""
        self.replace(len(self), len(self), text)

    def delete(self, start: int, stop: int) -> None:
        """Take out the code points from one index up to another one."""
        self.replace(start, stop, "")

    def replace(self, start: int, stop: int, text: str) -> None:
        """Put a text in place of the code points from one index up to another one.

        Raises:
            LocalProtocolError: there are no such indices, or the text has half a character in it.
        """
        check_type("text", text, str, "a text")
        encode(text)
        current = str(self)
        _check_range(start, stop, len(current))
        first = len(current[:start].encode())
        size = len(current[start:stop].encode())

        def edit(engine: Engine) -> Iterator[Update]:
            if text:
                yield engine.insert(first, text)
            if size:
                added = len(text.encode())
                yield engine.delete(first + added, first + added + size)

        if text or size:
            _edit(self._document, Kind.TEXT, self.name, edit)


@dataclass(frozen=True, slots=True)
class ReplicatedList(Sequence[Plain]):
    """A list that all edit; elements are plain data. See :class:`Text` for what calls do."""

    _document: Editable
    name: str

    @property
    def _values(self) -> list[Plain]:
        return self._document.state.elements(self.name)

    def __len__(self) -> int:
        sequence = self._document.state.sequence(Kind.LIST, self.name)
        return len(sequence.elements())

    def __iter__(self) -> Iterator[Plain]:
        return iter(self._values)

    @overload
    def __getitem__(self, index: int) -> Plain: ...
    @overload
    def __getitem__(self, index: slice) -> list[Plain]: ...
    def __getitem__(self, index: int | slice) -> Plain | list[Plain]:
        return self._values[index]

    def __setitem__(self, index: int, value: Plain) -> None:
        """Put a value in place of another. Two who do so at the same time put in both."""
        start = range(len(self))[index]
        self.replace(start, start + 1, [value])

    def __delitem__(self, index: int) -> None:
        start = range(len(self))[index]
        self.replace(start, start + 1, [])

    def insert(self, index: int, *values: Plain) -> None:
        """Put values in before the element at an index."""
        self.replace(index, index, values)

    def append(self, *values: Plain) -> None:
        """Put values in at the end."""
        self.replace(len(self), len(self), values)

    def replace(self, start: int, stop: int, values: Sequence[Plain]) -> None:
        """Put values in place of the elements from one index up to another one.

        Raises:
            LocalProtocolError: there are no such indices, or a value is no plain data or too large.
        """
        _check_range(start, stop, len(self))
        check_several("values", values, "a list of them")
        encoded = [encode(value) for value in values]
        limit = _limit(self._document, self.name)
        if any(len(each) > limit // 2 for each in encoded):
            raise LocalProtocolError(f"an element of more than {limit // 2} bytes")

        def edit(engine: Engine) -> Iterator[Update]:
            if encoded:
                yield engine.insert(start, encoded)
            if stop > start:
                yield engine.delete(start + len(encoded), stop + len(encoded))

        if encoded or stop > start:
            _edit(self._document, Kind.LIST, self.name, edit)


def _check_range(start: int, stop: int, length: int) -> None:
    check_count("start", start, 0)
    check_count("stop", stop, 0)
    if not start <= stop <= length:
        raise LocalProtocolError(f"from {start} to {stop} of {length}")


def _limit(document: Editable, name: str) -> int:
    return document.genesis.payload_room - len(encode(name)) - _FRAME_BYTES


def _edit(
    document: Editable, kind: Kind, name: str, edit: Callable[[Engine], Iterator[Update]]
) -> None:
    limit = _limit(document, name)
    if limit < 2 * _FRAME_BYTES:
        raise LocalProtocolError("the document's entries have no room for a text or list")
    if not document.genesis.allows(kind):
        raise LocalProtocolError(f"this document has no {kind.name.lower()}s")
    author, next_seq = document.author, document.next_seq
    sequence: TextSequence = document.state.sequence(kind, name)
    drafts = Drafts(sequence.pieces, author, next_seq, limit)
    with document.editing():
        for update in edit(sequence.engine(sequence.clients.number(author))):
            drafts.add(update)
        sequence.forget()
        write = TextWrite if kind == Kind.TEXT else ListWrite
        document.write(*(write(name, edits, deps) for edits, deps in drafts.finished()))
