"""When what is kept ends. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Times of keys; memory is of the order of the number of keys, however often they change."""

    __slots__ = ("_heap", "_serial", "_until")

    def __init__(self) -> None:
        self._until: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._until)

    def __setitem__(self, key: K, until: float) -> None:
        self._until[key] = until
        heappush(self._heap, (until, next(self._serial), key))
        if len(self._heap) > 2 * len(self._until) + 64:
            self._heap = [(end, next(self._serial), k) for k, end in self._until.items()]
            heapify(self._heap)

    def get(self, key: K) -> float | None:
        return self._until.get(key)

    def discard(self, key: K) -> None:
        """The key has no time any more."""
        self._until.pop(key, None)

    def take_due(self, now: float) -> Iterator[K]:
        """Keys whose time has come, which have none from then on."""
        while self._heap and self._heap[0][0] <= now:
            until, _, key = heappop(self._heap)
            if self._until.get(key) == until:
                del self._until[key]
                yield key
