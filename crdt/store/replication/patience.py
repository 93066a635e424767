"""Authors who are not asked for again and again, though others have more of them: pure.

A replica does not take everything that another one has: what is early, too fast or beyond its
budgets, or a chain that contradicts itself without proving it. Asking for that in each exchange
would cost both sides its bytes each time. When something has changed of what kept it out, it is
asked for at once.
"""

from __future__ import annotations

import random
from typing import Final

from lattica.crdt.sync.heads import Head, HeadIndex
from lattica.nat.base.limits.backoff import Backoff

FIRST_PAUSE: Final = 10.0
"""Seconds."""
LONGEST_PAUSE: Final = 600.0
MAX_AUTHORS: Final = 4096


class Patience:
    """For one document."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._vain: dict[bytes, tuple[Head, Head | None, Backoff]] = {}
        """By author, what was asked for in vain, and what was here then."""

    def may_ask(self, theirs: Head, ours: Head | None, now: float) -> bool:
        """Whether to ask for what somebody has of an author of whom this is here."""
        found = self._vain.get(theirs.author)
        return found is None or found[:2] != (theirs, ours) or found[2].due <= now

    def begin_anew(self) -> None:
        """Rights have changed: whatever was not taken may be now."""
        self._vain.clear()

    def asked(self, heads: dict[bytes, Head], index: HeadIndex, now: float) -> None:
        """An exchange is over in which these were asked for; what is here now is in the index."""
        for author, theirs in heads.items():
            ours = index.get(author)
            if (
                ours is not None
                and (ours.length >= theirs.length or ours.fork is not None)
                and ours.misses(theirs) is None
            ):
                self._vain.pop(author, None)
                continue
            found = self._vain.pop(author, None)
            if found is None or found[:2] != (theirs, ours):
                found = theirs, ours, Backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng, now)
            found[2].failed(now)
            self._vain[author] = found
            while len(self._vain) > MAX_AUTHORS:
                del self._vain[next(iter(self._vain))]
