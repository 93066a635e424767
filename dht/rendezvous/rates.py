"""How much a rendezvous point answers to a network, and to all of them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from lattica.nat.base.limits.token_bucket import TokenBucket, take

REQUEST = 4 * 1024
"""Bytes that a request counts as, besides its answer: a signature is verified, or places are looked
through."""
_SECONDS = 16.0
"""Whose rate can be saved up."""
_OF_ALL = 8
"""How many times a network's rate all networks together have."""
_MOST_NETWORKS = 4096


class AnswerRates:
    """Rates of bytes, by network.

    What an answer takes is known when it is made: so it may be owed, and while something is,
    nothing else is answered.

    Args:
        per_network: bytes a second; sixteen times as many at once, and eight times both for all.
    """

    def __init__(self, per_network: int) -> None:
        self._per_network = float(per_network)
        self._total = self._bucket(_OF_ALL)
        self._of: OrderedDict[Hashable, TokenBucket] = OrderedDict()
        """By network, the latest at the end."""

    def may_ask(self, network: Hashable, now: float) -> bool:
        """Whether a network may ask for something; if so, that is counted."""
        bucket = self._of.pop(network, None) or self._bucket(1)
        self._of[network] = bucket
        if len(self._of) > _MOST_NETWORKS:
            self._of.popitem(last=False)
        return take((bucket, self._total), REQUEST, now)

    def answered(self, network: Hashable, size: int, now: float) -> None:
        """It was answered with so many bytes."""
        for bucket in (self._of[network], self._total):
            bucket.spend(size, size, now)

    def _bucket(self, times: int) -> TokenBucket:
        rate = times * self._per_network
        return TokenBucket(max(_SECONDS * rate, REQUEST), rate)
