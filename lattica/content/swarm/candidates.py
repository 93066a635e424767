"""Peers that may have something, and which of them are asked: pure.

A fetch asks some peers at a time. Of those it knows, the ones that have sent something come first,
the fastest before the others; then those that were never asked; then those that failed, whoever
failed longest ago first, and not before a while has passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lattica.content.swarm.messages import Member
from lattica.nat.base.keys.identity import PeerId

MAX_CANDIDATES = 512
FAILED_PAUSE = 30.0
"""Seconds for which one that failed is left alone; doubles each time."""


@dataclass(slots=True)
class _Candidate:
    member: Member
    rate: float = 0.0
    failures: int = 0
    due: float = -math.inf
    active: bool = False


class Candidates:
    """All peers that a fetch has heard of. Time is passed in (seconds)."""

    def __init__(self) -> None:
        self._known: dict[PeerId, _Candidate] = {}

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, member: Member) -> None:
        """Somebody says that a peer may have something. Its newest addresses count."""
        known = self._known.get(member.peer_id)
        if known is not None:
            if member.addrs:
                known.member = member
        elif len(self._known) < MAX_CANDIDATES:
            self._known[member.peer_id] = _Candidate(member)

    def ended(self, peer: PeerId, now: float, *, rate: float | None, failed: bool) -> None:
        """A peer is asked no more: it has done well, or has failed."""
        known = self._known.get(peer)
        if known is None:
            return
        known.active = False
        known.rate = rate or known.rate
        if failed:
            known.failures += 1
            known.due = now + FAILED_PAUSE * 2.0 ** min(known.failures - 1, 8)

    def ban(self, peer: PeerId) -> None:
        """Never ask a peer again."""
        known = self._known.setdefault(peer, _Candidate(Member(peer, ())))
        known.active = False
        known.due = math.inf

    def take(self, now: float) -> Member | None:
        """The best that is not being asked, which is so from now on; None: there is none."""
        ready = [one for one in self._known.values() if not one.active and one.due <= now]
        if not ready:
            return None
        best = min(ready, key=lambda one: (one.failures, -one.rate, one.due))
        best.active = True
        return best.member

    @property
    def active(self) -> int:
        """How many are being asked."""
        return sum(one.active for one in self._known.values())

    @property
    def is_waiting(self) -> bool:
        """Somebody is still to be asked, who has not failed."""
        return any(
            not one.active and not one.failures and one.due < math.inf
            for one in self._known.values()
        )
