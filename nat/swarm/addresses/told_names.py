"""Names (`/dns4/…`) that somebody has told of about somebody else, looked up with care."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving, resolve
from lattica.nat.base.net.targets import Claim, Vantage, may_reach

MAX_NAMES = 2
"""Of one peer."""
_AT_ONCE, _PER_SECOND = 32.0, 1.0
"""Peers whose names are looked up."""
_TIMEOUT = 5.0


class ToldNames:
    """Looks names up, seldom, and judges what they lead to by the one rule
    (:mod:`lattica.nat.base.net.targets`): a name that somebody else has told of leads to the
    internet only, wherever the teller is, as whoever owns it can have it lead anywhere.

    Args:
        clock: seconds, never decreasing.
        may_look_up: whether the name in an address may be looked up.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        may_look_up: Callable[[Multiaddr], bool] = lambda _: True,
    ) -> None:
        self._clock = clock
        self._may_look_up = may_look_up
        self._budget = TokenBucket(_AT_ONCE, _PER_SECOND)

    async def resolved(self, addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        """IP addresses of those that have names, and that may be dialed; the others are left out.

        Takes five seconds at most; nothing is looked up where too much was lately.
        """
        told = (addr for addr in addrs if needs_resolving(addr) and self._may_look_up(addr))
        names = list(islice(told, MAX_NAMES))
        if not names or not take((self._budget,), 1.0, self._clock()):
            return ()
        found = await resolve(names, timeout=_TIMEOUT)
        return tuple(
            addr
            for addr in found
            if (ip := ip_of(addr)) is not None and may_reach(Claim.OTHERS, ip, Vantage())
        )
