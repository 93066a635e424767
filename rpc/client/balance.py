"""Which of a service's providers gets the next call. Pure, with the clock and the randomness given.

The less loaded of two that are drawn at random (Mitzenmacher, "The power of two choices", 1996),
where load is calls under way times how long calls take there. Of whoever has none that counts less
with time: slow once, it would never be measured again. Who fails is left out for a while.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.errors import StatusCode

BAN: Final = 15.0
"""Seconds for which a provider that failed gets no calls, unless all have failed."""
HALF_LIFE: Final = 10.0
"""Seconds without a call after which a provider counts as twice as fast as it was."""
_MOST_HALF_LIVES: Final = 20.0
_SMOOTHING: Final = 0.2
_UNKNOWN_LATENCY: Final = 0.001
_BANNING: Final = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.DATA_LOSS,
    }
)


class Resolver(Protocol):
    """Knows who provides a service: a list, or a discovery."""

    async def providers(self, service: str) -> Sequence[PeerId]:
        """The peers that serve it, as far as is known now."""
        ...


class FixedProviders:
    """Providers that are known from the start."""

    def __init__(self, peers: Iterable[PeerId]) -> None:
        self._peers = tuple(peers)

    async def providers(self, service: str) -> Sequence[PeerId]:
        return self._peers


class _Provider:
    __slots__ = ("banned_until", "calls", "idle_since", "latency")

    def __init__(self) -> None:
        self.calls = 0
        self.latency: float | None = None
        self.idle_since = 0.0
        self.banned_until = 0.0

    def latency_at(self, now: float) -> float | None:
        """How long a call takes there, as far as that is still known."""
        if self.latency is None or self.calls:
            return self.latency
        half_lives = min((now - self.idle_since) / HALF_LIFE, _MOST_HALF_LIVES)
        return self.latency * math.exp2(-half_lives)


class Balancer:
    """What is known of the providers of a service. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._providers: dict[PeerId, _Provider] = {}

    def update(self, peers: Collection[PeerId]) -> None:
        """These are the providers now; what is known of those that stay is kept."""
        for peer in [each for each in self._providers if each not in peers]:
            if not self._providers[peer].calls:
                del self._providers[peer]
        for peer in peers:
            self._providers.setdefault(peer, _Provider())

    def choose(self, peers: Sequence[PeerId], avoid: Collection[PeerId] = ()) -> PeerId | None:
        """Who of `peers` gets the next call; those to `avoid` only if there is nobody else."""
        now = self._clock()
        candidates = [peer for peer in peers if peer in self._providers]
        for wanted in (
            lambda peer: peer not in avoid and self._providers[peer].banned_until <= now,
            lambda peer: peer not in avoid,
        ):
            if found := [*filter(wanted, candidates)]:
                candidates = found
                break
        if not candidates:
            return None
        two = self._rng.sample(candidates, min(2, len(candidates)))
        return min(two, key=lambda peer: self._load(peer, now))

    def _load(self, peer: PeerId, now: float) -> float:
        provider = self._providers[peer]
        return (provider.calls + 1) * (provider.latency_at(now) or _UNKNOWN_LATENCY)

    def started(self, peer: PeerId) -> None:
        """A call to a provider begins."""
        provider = self._providers.setdefault(peer, _Provider())
        provider.latency = provider.latency_at(self._clock())
        provider.calls += 1

    def ended(self, peer: PeerId, code: StatusCode, seconds: float) -> None:
        """It has ended."""
        provider = self._providers[peer]
        provider.calls -= 1
        provider.idle_since = self._clock()
        if code in _BANNING:
            provider.banned_until = self._clock() + BAN
        elif code is StatusCode.OK:
            provider.banned_until = 0.0
            old = provider.latency
            provider.latency = seconds if old is None else old + _SMOOTHING * (seconds - old)

    def is_banned(self, peer: PeerId) -> bool:
        """Whether it gets calls only if nobody else can."""
        return self._providers[peer].banned_until > self._clock()
