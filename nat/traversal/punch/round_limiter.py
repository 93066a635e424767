"""How often peers may have this node dial for them. Pure but for the clock it is given."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from lattica.nat.base.keys.identity import PeerId

MINUTE, HOUR = 60.0, 3600.0
_MAX_PEERS = 1024


class RoundLimiter:
    """So many rounds for each peer, and so many for all (None: any number), in each `period`."""

    def __init__(
        self,
        per_peer: int,
        total: int | None,
        clock: Callable[[], float],
        *,
        period: float = MINUTE,
    ) -> None:
        self._per_peer = per_peer
        self._total = total
        self._clock = clock
        self._period = period
        self._by_peer: OrderedDict[PeerId, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def admit(self, peer_id: PeerId) -> bool:
        """Count a round for the peer, if it may have one now."""
        now = self._clock()
        mine = self._by_peer.setdefault(peer_id, deque())
        self._by_peer.move_to_end(peer_id)
        for times in (mine, self._all):
            while times and now - times[0] >= self._period:
                times.popleft()
        has_room = self._total is None or len(self._all) < self._total
        admitted = len(mine) < self._per_peer and has_room
        if admitted:
            mine.append(now)
            if self._total is not None:
                self._all.append(now)
        while len(self._by_peer) > _MAX_PEERS:
            # What is forgotten here still counts in the total.
            self._by_peer.popitem(last=False)
        return admitted
