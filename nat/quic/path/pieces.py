"""QUIC's datagrams in pieces, for a path that does not carry them whole. Pure.

    piece   0x14   connection ID(8)   number(2)   index and count, 4 bits each   bytes

The connection ID is the receiver's, and the number says which datagram a piece is of, modulo 2^16.
What the pieces make is QUIC's, encrypted and authentic or nothing; so nothing about them is
believed, and what waits for its other pieces is bounded in number, bytes and time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE

PIECE = 0x14
HEADER = 1 + CONNECTION_ID_SIZE + 2 + 1
MAX_PIECE = 1500
"""Bytes: pieces are for paths that carry less than an Ethernet frame."""
_WAITING = 64
"""Datagrams that wait for their other pieces; beyond it the oldest are lost."""
_WAITING_BYTES = 128 * 1024
"""Bytes of them, of one connection."""
_PATIENCE = 1.0
"""Seconds that a piece waits for the others, which were sent together with it."""


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


class _Parts:
    """The pieces of one datagram that have come."""

    __slots__ = ("began", "pieces", "size")

    def __init__(self, began: float) -> None:
        self.began = began
        self.pieces: dict[int, bytes] = {}
        self.size = 0


class Joiner:
    """Puts together what comes from one peer.

    What waits is counted in the node's budget, and where that has no room a piece is lost.

    Args:
        budget: the memory for what was received, which this shares with all streams.
        clock: monotonic seconds.
    """

    __slots__ = ("_budget", "_clock", "_size", "_waiting")

    def __init__(self, budget: MemoryBudget, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self._size = 0
        self._waiting: OrderedDict[tuple[int, int], _Parts] = OrderedDict()
        """By number and count of pieces, the oldest first."""

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def receive(self, piece: bytes) -> bytes | None:
        """Take a piece; return the datagram that it completes. What is malformed is lost."""
        self.expire()
        if not HEADER < len(piece) <= MAX_PIECE:
            return None
        number = int.from_bytes(piece[HEADER - 3 : HEADER - 1], "big")
        index, count = piece[HEADER - 1] >> 4, piece[HEADER - 1] & 0x0F
        if index >= count:
            return None
        if count == 1:
            return piece[HEADER:]
        size = len(piece) - HEADER
        parts = self._waiting.get((number, count))
        if parts is None:
            while self._waiting and len(self._waiting) >= _WAITING:
                self._drop_oldest()
            parts = self._waiting[number, count] = _Parts(self._clock())
        elif index in parts.pieces:
            return None
        parts.pieces[index] = piece[HEADER:]
        parts.size += size
        self._size += size
        self._budget.used += size
        if len(parts.pieces) == count:
            self._drop(number, count)
            return b"".join(parts.pieces[place] for place in range(count))
        while self._size > _WAITING_BYTES or (
            self._size and self._budget.used > self._budget.limit
        ):
            self._drop_oldest()
        return None

    def next_timer(self) -> float | None:
        """When :meth:`expire` has something to do."""
        return next((parts.began + _PATIENCE for parts in self._waiting.values()), None)

    def expire(self) -> None:
        """Lose what has waited too long for the rest."""
        late = self._clock() - _PATIENCE
        while self._waiting and next(iter(self._waiting.values())).began <= late:
            self._drop_oldest()

    def clear(self) -> None:
        """Lose all that waits: the connection is over."""
        while self._waiting:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._drop(*next(iter(self._waiting)))

    def _drop(self, number: int, count: int) -> None:
        size = self._waiting.pop((number, count)).size
        self._size -= size
        self._budget.used -= size
