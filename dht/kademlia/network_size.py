"""How many peers a network has, from how near to their keys those are that lookups find. Pure.

IDs are hashes, so peers lie at random in the space of keys: of `n` peers the twentieth nearest to
any key is about 20/n of the space away. The estimate is the median over lookups of different parts
of the space, so a few parts that are full of liars, or empty, do not change it; and in each the
nearest quarter is not counted, where Sybils would be.

Sources: go-libp2p-kad-dht's `netsize` (from lookups, too, by least squares); Sridhar et al.,
"Content Censorship in the InterPlanetary File System" (NDSS 2024), for what it is used for: peers
that are nearer to a key than chance has it were made for that, and then the honest ones behind them
are looked for, region by region.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lattica.dht.kademlia.contact import KEY_BITS, common_prefix

_SPACE = 1 << KEY_BITS
_KEPT = 48
"""Lookups that are remembered."""
_DRAWN_ENOUGH = 4
"""Lookups of keys that this node has drawn with which those of other keys count no more: others
may have chosen these."""
DRAWN = 12
"""Keys that a node draws and looks up, one after the other, to know the size of its network."""
_MISSED = 0.05
"""Share of the nearest peers that lookups may miss everywhere, so that it is in no difference."""
_ODD = 3.09
"""Standard deviations: chance alone has peers so near once in a thousand times."""
_REGION = 1.5
"""Times `count` peers that a region has at least; and at most twice as many."""
_MOST_PARTS = 12
"""Of a region, each half as large as the one before, that are looked up for themselves: in what is
left there is an honest peer once in fifty times."""
REGION_GROUP_LIMIT = 3
"""Peers of one network that are asked in a part of a region while there are others."""


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """An estimate of how many peers serve the network."""

    peers: float
    error: float
    """Relative, one standard deviation: 0.1 is "10% more or less". 0: they were counted."""
    samples: int
    """Lookups that it is made of."""

    @property
    def least(self) -> float:
        """So many there are at least, with a probability of 98%."""
        return self.peers * math.exp(-2 * self.error)

    @property
    def most(self) -> float:
        """So many there are at most, with a probability of 98%."""
        return self.peers * math.exp(2 * self.error)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one lookup says."""

    target: int
    span: int
    """The distance up to which it is complete."""
    peers: float

    def overlaps(self, other: Sample) -> bool:
        """Whether they have seen the same peers, and count as one."""
        return self.target ^ other.target < max(self.span, other.span)


class SizeEstimator:
    """What one node has seen of the size of its network.

    Args:
        count: nearest peers that lookups look for.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._drawn: deque[Sample] = deque(maxlen=_KEPT)
        """Of keys that this node has drawn, the last one last; they do not overlap."""
        self._others: deque[Sample] = deque(maxlen=_KEPT)
        self._restored: deque[Sample] = deque()
        """From before a restart, those that go first at first."""
        self._replaced = 0
        """How many of these one lookup of a drawn key takes the place of."""
        self._size: NetworkSize | None = None

    def learned(self, target: int, nearest: Sequence[int], *, is_drawn: bool = False) -> None:
        """A lookup of `target` has ended by itself, with these keys of peers, the nearest first.

        `is_drawn` says that this node has drawn the target at random, so that nobody can have made
        peers for it. Of others, those next to which it is crowded by what is known so far say
        nothing.
        """
        if not nearest or (not is_drawn and self.is_crowded(target, nearest)):
            return
        count = self._count
        if len(nearest) < count:
            # There are no more.
            sample = Sample(target, nearest[-1] ^ target, float(len(nearest)))
        else:
            skipped = count // 4
            span = nearest[count - 1] ^ target
            between = span - (nearest[skipped - 1] ^ target if skipped else 0)
            # A third less than the peers in between: as often too small as too large (the median
            # of a gamma distribution).
            peers = (count - skipped - 1 / 3) * _SPACE / max(between, 1)
            sample = Sample(target, span, peers)
        samples = self._drawn if is_drawn else self._others
        for past in (samples, self._restored):
            for old in [old for old in past if old.overlaps(sample)]:
                past.remove(old)
        samples.append(sample)
        if is_drawn:
            for _ in range(min(self._replaced, len(self._restored))):
                self._restored.popleft()
        self._size = None

    def restore(self, samples: Iterable[Sample]) -> None:
        """Begin with what was known before a restart (:attr:`samples`), the newest last. It counts
        until :data:`DRAWN` keys were looked up anew, less with each of them.
        """
        self._restored = deque(samples, maxlen=_KEPT)
        self._replaced = -(-len(self._restored) // DRAWN)
        self._size = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What :attr:`size` is made of, the newest last."""
        drawn = [*self._restored, *self._drawn]
        if len(drawn) >= _DRAWN_ENOUGH:
            return tuple(drawn)
        others = (other for other in self._others if not any(map(other.overlaps, drawn)))
        return (*others, *drawn)

    @property
    def drawn(self) -> int:
        """Lookups of keys that this node has drawn since it runs, as far as they are remembered."""
        return len(self._drawn)

    @property
    def size(self) -> NetworkSize | None:
        """The estimate; None: nothing was looked up yet."""
        if self._size is None:
            self._size = self._estimate()
        return self._size

    def _estimate(self) -> NetworkSize | None:
        samples = [sample.peers for sample in self.samples]
        if not samples:
            return None
        middle = statistics.median(samples)
        if middle < self._count:
            return NetworkSize(middle, 0.0, len(samples))
        # Of one lookup as of a gamma distribution, or as they differ if that is more.
        spread = 1 / math.sqrt(self._count - self._count // 4)
        if len(samples) > 3:
            deviations = (abs(math.log(sample / middle)) for sample in samples)
            spread = max(spread, 1.4826 * statistics.median(deviations))
        few = len(samples) <= 2
        error = spread if few else 1.2533 * spread / math.sqrt(len(samples))
        return NetworkSize(middle, math.hypot(error, _MISSED), len(samples))

    # --- what follows from it ---

    @property
    def reach(self) -> int:
        """The distance within which there are about as many peers as are looked for: who is nearer
        to a key is likely one of its nearest. 0: the size is not known, or they are all.
        """
        size = self.size
        if size is None or size.peers < 2 * self._count:
            return 0
        return int(self._count / (size.peers * (1 + size.error)) * _SPACE)

    def is_crowded(self, target: int, nearest: Sequence[int]) -> bool:
        """Whether so many peers, the nearest first, are nearer to a key than chance has it:
        somebody has made IDs for that, and honest peers are behind them.
        """
        size = self.size
        if size is None or not nearest:
            return False
        expected = size.most * (nearest[-1] ^ target) / _SPACE
        return expected < _few(len(nearest))

    def region(self, target: int, nearest: Sequence[int]) -> list[int]:
        """Where honest peers are when these, the nearest first, crowd next to a key: numbers of
        leading bits that keys share with `target`, exactly, in parts of the space with about
        `count` peers, with half as many, and so on to where the crowd begins.
        """
        size = self.size
        if size is None:
            return []
        first = max(math.floor(math.log2(max(size.least / (_REGION * self._count), 1.0))), 0)
        crowd = max(common_prefix(nearest[-1], target), first)
        return list(range(first, min(crowd + 1, first + _MOST_PARTS)))


def _few(count: int) -> float:
    """How many peers are expected at least, but for once in a thousand times, where `count` are
    found (Wilson and Hilferty's approximation of a gamma distribution's quantile).
    """
    return float(count * max(1 - 1 / (9 * count) - _ODD / (3 * math.sqrt(count)), 0.0) ** 3)
