"""How long a connection may have the event loop to itself, and how much of it for nothing.

What comes in is counted in units of work, of a few microseconds each. After :data:`TURN` of them
the others have their turn; whoever goes on after that queues with the rest of its network
(:class:`Turnstile`), so that a host with a hundred connections gets no more than one with one.

Frames that carry nothing (resets, credit in small change, news of streams that are no more) are
also counted over time (:class:`Nuisance`), for the connection and for its network. Honest peers
send them, too, and some for a while thousands a second. So who exceeds the rate is read less: its
connection rests until what it owes is paid, and TCP's windows or lost datagrams slow it down. What
no honest peer sends in such numbers ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.token_bucket import TokenBucket, TokenBuckets, take

UNIT = 4e-6
"""Seconds of processor time that a unit of work stands for."""
TURN = 256
"""Units of work in a turn: about a millisecond."""
SLOW_TURN = 32
"""The same for a connection that has just rested, so that it soon owes nothing or rests again."""
OPENING = 32
"""What it costs to open a stream."""
SMALL_CREDIT = 4096
"""Bytes; credit is given by the half of a window, which is at least 128 KiB."""

_BURST, _RATE = 16384, 1024
"""Frames for nothing that are taken of one connection at once, and in a second."""
_NETWORK_BURST, _NETWORK_RATE = 65536, 4096
"""The same for all connections of a network."""
_LONGEST_REST = 8.0
"""Seconds that a connection rests at most, whatever its network owes; far less than for what peers
may be silent. A thousand of them have a rest of their own then, and a short turn each."""
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


class NetworkNuisance(TokenBuckets[Hashable]):
    """The buckets of networks, each of which all connections from one share."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NETWORK_BURST, _NETWORK_RATE, _MAX_NETWORKS)


class Nuisance:
    """What one connection sends for nothing."""

    __slots__ = ("_clock", "_network", "_own", "_refused", "_rests_until", "last")

    def __init__(self, clock: Callable[[], float], network: TokenBucket | None = None) -> None:
        self._clock = clock
        self._own = TokenBucket(_BURST, _RATE)
        self._refused: TokenBucket | None = None
        self._network = network
        self._rests_until = 0.0
        self.last = ""
        """What was counted last, in words."""

    def count(self, what: str, cost: int = 1) -> None:
        """Something has come that costs as much as so many frames that carry nothing.

        When that is too much, the connection :attr:`rests_until` what this has added to the debt
        is paid. So connections of a network, which owe together, go on one after the other.
        """
        now = self._clock()
        rest = self._own.spend(cost, _LONGEST_REST * _RATE, now)
        if self._network is not None:
            network = self._network.spend(cost, _LONGEST_REST * _NETWORK_RATE, now)
            rest = max(rest, network)
        self.last = what
        if rest:
            self._rests_until = max(self._rests_until, now + rest)

    def refuse(self, what: str) -> None:
        """A frame has come that no honest peer sends often.

        Raises:
            RemoteProtocolError: it is one too many.
        """
        if self._refused is None:
            self._refused = TokenBucket(_BURST, _RATE)
        if not take((self._refused,), 1, self._clock()):
            raise RemoteProtocolError(
                f"too many frames for nothing, {what} at last: {_BURST} are taken, and {_RATE} "
                "a second after that"
            )

    @property
    def rests_until(self) -> float | None:
        """Until when nothing is to be read of the connection, by the clock; None: it does not rest.

        A peer that is silent meanwhile is not to blame.
        """
        if self._rests_until and self._rests_until <= self._clock():
            self._rests_until = 0.0
        return self._rests_until or None
