"""The references that a node has got from others, and when to say so. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattica.nat.base.keys.identity import PeerId

MOST_KEPT: Final = 16_384
"""References that are kept alive; what is beyond lives for its time only."""
LONGEST_PAUSE: Final = 4.0
"""Seconds between heartbeats: three fit into the silence that means death."""
MOST_IN_BEAT: Final = 1024


@dataclass(slots=True)
class _Kept:
    ttl: float
    copies: int = 1
    beats: bool = False
    """A heartbeat has been sent for it."""


class Keeping:
    """By owner and id. A reference may have come several times."""

    def __init__(self) -> None:
        self._kept: dict[PeerId, dict[bytes, _Kept]] = {}
        self.count = 0

    def add(self, owner: PeerId, lease_id: bytes, ttl: float) -> bool:
        """One has come; whether it is the first of its owner."""
        of_owner = self._kept.get(owner)
        if of_owner is not None and (kept := of_owner.get(lease_id)) is not None:
            kept.copies += 1
            return False
        if self.count >= MOST_KEPT:
            return False
        self.count += 1
        if of_owner is None:
            self._kept[owner] = {lease_id: _Kept(ttl)}
            return True
        of_owner[lease_id] = _Kept(ttl)
        return False

    def drop(self, owner: PeerId, lease_id: bytes) -> bool:
        """A copy is no more; whether it was the last, and its owner is used to heartbeats."""
        kept = self._kept.get(owner, {}).get(lease_id)
        if kept is None:
            return False
        kept.copies -= 1
        if kept.copies:
            return False
        self.forget(owner, lease_id)
        return kept.beats

    def forget(self, owner: PeerId, lease_id: bytes) -> None:
        """The lease has ended. Idempotent."""
        of_owner = self._kept.get(owner)
        if of_owner is not None and of_owner.pop(lease_id, None) is not None:
            self.count -= 1
            if not of_owner:
                del self._kept[owner]

    def beat(self, owner: PeerId) -> list[bytes]:
        """What a heartbeat to an owner is to be for."""
        of_owner = self._kept.get(owner, {})
        for kept in of_owner.values():
            kept.beats = True
        return list(of_owner)

    def pause(self, owner: PeerId) -> float | None:
        """Seconds to the next heartbeat; None: nothing of the owner's is kept."""
        of_owner = self._kept.get(owner)
        if not of_owner:
            return None
        return min(LONGEST_PAUSE, min(each.ttl for each in of_owner.values()) / 3)
