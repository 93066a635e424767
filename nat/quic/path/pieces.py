"""QUIC's datagrams in pieces, for a path that does not carry them whole. Pure.

    piece   0x14   connection ID(8)   number(2)   index and count, 4 bits each   bytes

The connection ID is the receiver's, and the number says which datagram a piece is of, modulo 2^16.
What the pieces make is QUIC's, encrypted and authentic or nothing; so nothing about them is
believed, and what waits for its other pieces is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE

PIECE = 0x14
HEADER = 1 + CONNECTION_ID_SIZE + 2 + 1
_WAITING = 64
"""Datagrams that wait for their other pieces; beyond it the oldest are lost."""


def is_piece(datagram: bytes) -> bool:
    """Whether a datagram is for this module, by its first byte."""
    return datagram[0] == PIECE


class Cutter:
    """Cuts what goes to one peer."""

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = 0

    def cut(self, datagrams: Sequence[bytes], connection_id: bytes, limit: int) -> list[bytes]:
        """Pieces of at most `limit` bytes, about equal ones of each datagram."""
        pieces = []
        for datagram in datagrams:
            count = -(-len(datagram) // (limit - HEADER))
            size = -(-len(datagram) // count)
            head = bytes((PIECE,)) + connection_id + self._number.to_bytes(2, "big")
            for index in range(count):
                place = bytes((index << 4 | count,))
                pieces.append(head + place + datagram[index * size : (index + 1) * size])
            self._number = (self._number + 1) & 0xFFFF
        return pieces


class Joiner:
    """Puts together what comes from one peer."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[int, int], dict[int, bytes]] = OrderedDict()

    def receive(self, piece: bytes) -> bytes | None:
        """Take a piece; return the datagram that it completes. What is malformed is lost."""
        if len(piece) <= HEADER:
            return None
        number = int.from_bytes(piece[HEADER - 3 : HEADER - 1], "big")
        index, count = piece[HEADER - 1] >> 4, piece[HEADER - 1] & 0x0F
        if index >= count:
            return None
        if count == 1:
            return piece[HEADER:]
        parts = self._waiting.setdefault((number, count), {})
        parts[index] = piece[HEADER:]
        if len(parts) == count:
            del self._waiting[number, count]
            return b"".join(parts[place] for place in range(count))
        while len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)
        return None
