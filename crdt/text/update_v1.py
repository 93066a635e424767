"""The part of Yjs' update encoding (version 1) that flat texts and lists need: read and written.

An update is the structs of some clients, then ranges of units that are deleted. A unit is named by
its client and clock: of a text a UTF-16 code unit, of a list an element. Only what the edits of
:mod:`~lattica.crdt.text.edits` come to is accepted: items with a text, byte strings or deleted
content, whose parent is the one root. Time and memory are linear in the bytes.

Source: yjs' `src/utils/UpdateEncoder.js` and `src/structs/Item.js` (lib0's var-ints).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lattica.nat.base.errors import RemoteProtocolError

ROOT: Final = "t"
"""The name of the root type that has the items."""
MAX_CLIENT: Final = 2**53 - 1
MAX_CLOCK: Final = 2**31 - 1
"""Units of one client."""

_DELETED, _STRING, _ANY = 1, 4, 8
_BYTES: Final = 116
"""The type of an element that is a byte string (lib0's `any`)."""
_HAS_LEFT, _HAS_RIGHT = 0x80, 0x40
_PARENT: Final = b"\x01" + bytes([len(ROOT)]) + ROOT.encode()

Id: TypeAlias = tuple[int, int]
"""Client and clock of a unit."""


@dataclass(frozen=True, slots=True)
class Item:
    """Units that were put in together."""

    left: Id | None
    """The unit before them when they were; None: the beginning."""
    right: Id | None
    """The unit after them; None: the end."""
    content: str | tuple[bytes, ...] | int
    """A piece of text, elements of a list, or how many units were deleted."""

    @property
    def length(self) -> int:
        """Units."""
        match self.content:
            case str(text):
                return utf16_length(text)
            case int(count):
                return count
            case elements:
                return len(elements)


@dataclass(frozen=True, slots=True)
class Block:
    """Items of one client, without gaps."""

    client: int
    clock: int
    """Of the first unit."""
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Units that are deleted."""

    client: int
    clock: int
    length: int


@dataclass(frozen=True, slots=True)
class Update:
    """Blocks, each of another client, and deleted ranges."""

    blocks: tuple[Block, ...]
    deleted: tuple[Range, ...]


def utf16_length(text: str) -> int:
    """UTF-16 code units of a text."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def encode_update(blocks: Sequence[Block], deleted: Iterable[Range]) -> bytes:
    """The bytes of an update; at most one block of each client."""
    out = bytearray()
    _write(out, len(blocks))
    for block in blocks:
        _write(out, len(block.items))
        _write(out, block.client)
        _write(out, block.clock)
        for item in block.items:
            _write_item(out, item)
    by_client: dict[int, list[Range]] = {}
    for each in deleted:
        by_client.setdefault(each.client, []).append(each)
    _write(out, len(by_client))
    for client, ranges in by_client.items():
        _write(out, client)
        _write(out, len(ranges))
        for each in ranges:
            _write(out, each.clock)
            _write(out, each.length)
    return bytes(out)


def _write_item(out: bytearray, item: Item) -> None:
    content = item.content
    kind = _STRING if isinstance(content, str) else _DELETED if isinstance(content, int) else _ANY
    out.append(
        kind
        | (_HAS_LEFT if item.left is not None else 0)
        | (_HAS_RIGHT if item.right is not None else 0)
    )
    for origin in (item.left, item.right):
        if origin is not None:
            _write(out, origin[0])
            _write(out, origin[1])
    if item.left is None and item.right is None:
        out += _PARENT
    match content:
        case str():
            _write_bytes(out, content.encode())
        case int():
            _write(out, content)
        case _:
            _write(out, len(content))
            for element in content:
                out.append(_BYTES)
                _write_bytes(out, element)


def _write_bytes(out: bytearray, data: bytes) -> None:
    _write(out, len(data))
    out += data


def _write(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def decode_update(data: bytes) -> Update:
    """Read an update.

    Raises:
        RemoteProtocolError: it is none, or has something in it that no edit of a flat text or list
            comes to: other kinds of content, other parents, gaps, clocks beyond `MAX_CLOCK`.
    """
    reader = _Reader(data)
    blocks: list[Block] = []
    for _ in range(reader.count()):
        count, client, clock = reader.count(), reader.number(MAX_CLIENT), reader.number(MAX_CLOCK)
        end = clock
        items: list[Item] = []
        for _ in range(count):
            item = reader.item()
            items.append(item)
            end += item.length
            if end > MAX_CLOCK:
                raise RemoteProtocolError("an update with more units than a client can have")
        if not items:
            raise RemoteProtocolError("an update with an empty block")
        blocks.append(Block(client, clock, tuple(items)))
    if len({block.client for block in blocks}) != len(blocks):
        raise RemoteProtocolError("an update with two blocks of a client")
    deleted: list[Range] = []
    for _ in range(reader.count()):
        client = reader.number(MAX_CLIENT)
        for _ in range(reader.count()):
            clock = reader.number(MAX_CLOCK)
            length = reader.number(MAX_CLOCK - clock)
            if not length:
                raise RemoteProtocolError("an update that deletes a range of nothing")
            deleted.append(Range(client, clock, length))
    reader.finish()
    return Update(tuple(blocks), tuple(deleted))


class _Reader:
    """Reads lib0's encoding; raises RemoteProtocolError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def finish(self) -> None:
        if self._place != len(self._data):
            raise RemoteProtocolError("an update with more behind its end")

    def count(self) -> int:
        """How many follow; each has a byte at least."""
        return self.number(len(self._data) - self._place)

    def number(self, limit: int) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 56:
                raise RemoteProtocolError("a number of an update that is too long")
        if value > limit or (shift and not byte):
            raise RemoteProtocolError("a number of an update that is out of range")
        return value

    def _byte(self) -> int:
        if self._place >= len(self._data):
            raise RemoteProtocolError("an update that is cut short")
        self._place += 1
        return self._data[self._place - 1]

    def piece(self) -> bytes:
        size = self.number(len(self._data) - self._place)
        end = self._place + size
        if end > len(self._data):
            raise RemoteProtocolError("an update that is cut short")
        piece = self._data[self._place : end]
        self._place = end
        return piece

    def item(self) -> Item:
        info = self._byte()
        kind = info & 0x1F
        if info & 0x20 or kind not in (_DELETED, _STRING, _ANY):
            raise RemoteProtocolError("an update with something else than text, bytes or deletions")
        left = self._id() if info & _HAS_LEFT else None
        right = self._id() if info & _HAS_RIGHT else None
        if left is None and right is None:
            end = self._place + len(_PARENT)
            if self._data[self._place : end] != _PARENT:
                raise RemoteProtocolError("an update of another type than the root")
            self._place = end
        content: str | tuple[bytes, ...] | int
        if kind == _DELETED:
            content = self.number(MAX_CLOCK)
        elif kind == _STRING:
            content = self._text()
        else:
            content = tuple(self._element() for _ in range(self.count()))
        if not content:
            raise RemoteProtocolError("an update with an item of nothing")
        return Item(left, right, content)

    def _text(self) -> str:
        try:
            return self.piece().decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("an update with a text that is no UTF-8") from None

    def _element(self) -> bytes:
        if self._byte() != _BYTES:
            raise RemoteProtocolError("an update with an element that is no byte string")
        return self.piece()

    def _id(self) -> Id:
        return self.number(MAX_CLIENT), self.number(MAX_CLOCK)
