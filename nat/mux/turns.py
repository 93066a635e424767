"""How long a connection may have the event loop to itself, and how much of it for nothing.

What comes in is counted in units of work, of a few microseconds each. After :data:`TURN` of them
the others have their turn; whoever goes on after that queues with the rest of its network
(:class:`Turnstile`), so that a host with a hundred connections gets no more than one with one.

Frames that carry nothing (without data, resets, credit in small change) are also counted
over time (:class:`Nuisance`), for the connection and for its network; beyond a rate that no honest
peer comes near, the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket, take

TURN = 256
"""Units of work in a turn: about a millisecond."""
OPENING = 32
"""What it costs to open a stream."""
SMALL_CREDIT = 4096
"""Bytes; credit is given by the half of a window, which is at least 128 KiB."""

_BURST, _RATE = 16384, 1024
"""Frames for nothing that one connection may send at once, and in a second."""
_NETWORK_BURST, _NETWORK_RATE = 65536, 4096
"""The same for all connections of a network."""
_MAX_NETWORKS = 1024


class Turnstile:
    """Lets those through that want more than a turn: one of each network in a round."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[Hashable, trio.Lock] = {}

    async def wait(self, network: Hashable) -> None:
        """Let all others run, and those of the same network one by one. A checkpoint."""
        line = self._lines.setdefault(network, trio.Lock())
        try:
            async with line:
                await trio.lowlevel.checkpoint()
        finally:
            if not line.locked():
                self._lines.pop(network, None)


class NetworkNuisance:
    """The buckets of networks: those that were used last, so that memory is bounded."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[Hashable, TokenBucket] = {}

    def of(self, network: Hashable) -> TokenBucket:
        """The bucket that all connections from a network share."""
        bucket = self._buckets.pop(network, None) or TokenBucket(_NETWORK_BURST, _NETWORK_RATE)
        self._buckets[network] = bucket
        if len(self._buckets) > _MAX_NETWORKS:
            del self._buckets[next(iter(self._buckets))]
        return bucket


class Nuisance:
    """What one connection sends for nothing."""

    __slots__ = ("_buckets", "_clock")

    def __init__(self, clock: Callable[[], float], network: TokenBucket | None = None) -> None:
        self._clock = clock
        own = TokenBucket(_BURST, _RATE)
        self._buckets = (own,) if network is None else (own, network)

    def count(self, what: str, cost: int = 1) -> None:
        """A frame has come that carries nothing, or something that costs as much as several.

        Raises:
            RemoteProtocolError: it is one too many.
        """
        if not take(self._buckets, cost, self._clock()):
            raise RemoteProtocolError(
                f"too many frames for nothing, {what} at last: {_BURST} are taken, and {_RATE} "
                "a second after that"
            )
