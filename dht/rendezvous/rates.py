"""How much a rendezvous point answers to a network, and to all of them. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from lattica.nat.base.limits.token_bucket import TokenBucket, TokenBuckets, take

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
        at_once = _SECONDS * per_network
        self._of = TokenBuckets[Hashable](at_once, per_network, _MOST_NETWORKS)
        """By network."""
        self._total = TokenBucket(_OF_ALL * at_once, _OF_ALL * per_network)

    def may_ask(self, network: Hashable, now: float) -> bool:
        """Whether a network may ask for something; if so, that is counted."""
        return take((self._of.of(network), self._total), REQUEST, now)

    def answered(self, network: Hashable, size: int, now: float) -> None:
        """It was answered with so many bytes."""
        for bucket in (self._of.of(network), self._total):
            bucket.spend(size, size, now)
