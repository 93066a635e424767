"""How often peers may have this node dial for them. Pure but for the clock it is given."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from lattica.identity import PeerId

_PERIOD = 60.0
_MAX_PEERS = 1024


class RoundLimiter:
    """So many rounds a minute for each peer, and so many for all."""

    def __init__(self, per_peer: int, total: int, clock: Callable[[], float]) -> None:
        self._per_peer = per_peer
        self._total = total
        self._clock = clock
        self._by_peer: OrderedDict[PeerId, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def admit(self, peer_id: PeerId) -> bool:
        """Count a round for the peer, if it may have one now."""
        now = self._clock()
        mine = self._by_peer.setdefault(peer_id, deque())
        self._by_peer.move_to_end(peer_id)
        for times in (mine, self._all):
            while times and now - times[0] >= _PERIOD:
                times.popleft()
        admitted = len(mine) < self._per_peer and len(self._all) < self._total
        if admitted:
            mine.append(now)
            self._all.append(now)
        while len(self._by_peer) > _MAX_PEERS:
            # What is forgotten here still counts in the total.
            self._by_peer.popitem(last=False)
        return admitted
