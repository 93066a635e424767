"""Rates with bursts: token buckets, of which one or several pay for what is done. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TokenBucket:
    """Holds `size` tokens, all of them at first, and is refilled with `rate` tokens a second."""

    __slots__ = ("_filled", "_rate", "_size", "level")

    def __init__(self, size: float, rate: float) -> None:
        self._size = size
        self._rate = rate
        self._filled: float | None = None
        self.level = size
        """Tokens as of the last :meth:`fill`; below 0 after :meth:`spend` as many are owed."""

    def fill(self, now: float) -> None:
        """Add what has come since the last time; `now` are seconds that never decrease."""
        if self._filled is not None:
            self.level = min(self._size, self.level + (now - self._filled) * self._rate)
        self._filled = now

    def spend(self, cost: float, most_owed: float, now: float) -> float:
        """Take `cost` tokens, whether there are as many or not.

        Returns:
            Seconds until those are there that are owed, of which there are never more than
            `most_owed`; 0.0: none is.
        """
        self.fill(now)
        self.level = max(self.level - cost, -most_owed)
        return max(0.0, -self.level / self._rate)

    @property
    def is_full(self) -> bool:
        """Whether it is as if it had never been used."""
        return self.level >= self._size


class TokenBuckets(Generic[K]):
    """A bucket for each of many keys: of the `most` that were used last, so that memory is bounded.

    Args:
        size, rate: of each of them.
    """

    __slots__ = ("_buckets", "_most", "_rate", "_size")

    def __init__(self, size: float, rate: float, most: int) -> None:
        self._size = size
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()
        """The latest at the end."""

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: K) -> TokenBucket:
        """The bucket of a key; a full one if it is not remembered."""
        bucket = self._buckets.pop(key, None) or TokenBucket(self._size, self._rate)
        self._buckets[key] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return bucket


def take(buckets: Collection[TokenBucket], cost: float, now: float) -> bool:
    """Take `cost` tokens from each bucket if all of them have as many, else from none."""
    for bucket in buckets:
        bucket.fill(now)
    if any(bucket.level < cost for bucket in buckets):
        return False
    for bucket in buckets:
        bucket.level -= cost
    return True
