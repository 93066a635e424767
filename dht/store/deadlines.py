"""When what is kept ends. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from math import floor, inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Times of keys; memory is of the order of the number of keys, however often they change.

    Keys are put together by the second, as a heap of many thousand would be made anew in one piece.
    Times are finite.
    """

    __slots__ = ("_by_second", "_heap", "_until")

    def __init__(self) -> None:
        self._until: dict[K, float] = {}
        self._by_second: dict[int, dict[K, None]] = {}
        self._heap: list[int] = []
        """A heap of those; of some that are over before their time, too."""

    def __len__(self) -> int:
        return len(self._until)

    def __setitem__(self, key: K, until: float) -> None:
        self.discard(key)
        self._until[key] = until
        second = floor(until)
        keys = self._by_second.get(second)
        if keys is None:
            keys = self._by_second[second] = {}
            heappush(self._heap, second)
            if len(self._heap) > 2 * len(self._by_second) + 64:
                self._heap = sorted(self._by_second)
        keys[key] = None

    def get(self, key: K) -> float | None:
        return self._until.get(key)

    def discard(self, key: K) -> None:
        """The key has no time any more."""
        until = self._until.pop(key, None)
        if until is not None:
            keys = self._by_second[floor(until)]
            del keys[key]
            if not keys:
                del self._by_second[floor(until)]

    def take_due(self, now: float) -> Iterator[K]:
        """Keys whose time has come, which have none from then on."""
        while self._heap and self._heap[0] <= now:
            keys = self._by_second.get(self._heap[0])
            if keys is None:
                heappop(self._heap)
                continue
            due = [key for key in keys if self._until[key] <= now]
            if not due:
                return
            for key in due:
                if self._until.get(key, inf) <= now:
                    self.discard(key)
                    yield key
