"""What a node has lent, to whom, and until when. Pure: time is passed in.

A lease is for one peer, which proves by its key that it is that one; its id is a capability that
nobody can guess. It ends once, and in one manner (:class:`LeaseEnd`). Until then it lives by signs
of life of its reader: reads, and heartbeats. When those have begun, silence of :data:`SILENCE`
seconds is the reader's death, and so is a connection that has been gone for :data:`AWAY` seconds.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.errors import ResourceExhaustedError

SILENCE: Final = 12.0
"""Seconds without a heartbeat, once they have begun, after which a reader counts as dead."""
AWAY: Final = 10.0
"""Seconds without a connection after which it does."""
MOST_LEASES: Final = 65_536
MOST_LEASES_OF_PEER: Final = 16_384
MOST_LEASES_OF_NETWORK: Final = 49_152
ID_BYTES: Final = 16


class LeaseEnd(Enum):
    """How a lease has ended."""

    RELEASED = "released"
    """By its reader."""
    EXPIRED = "expired"
    """There was no sign of life of its reader for the lease's time."""
    PEER_LOST = "peer-lost"
    """Its reader is dead or cannot be reached."""
    WITHDRAWN = "withdrawn"
    """By this node."""


@dataclass(slots=True, eq=False)
class Loan:
    """A value that one or more leases keep."""

    value: Any
    size: int
    """Bytes."""
    leases: int = 0
    networks: Counter[Hashable] = field(default_factory=Counter)
    """How many leases each network has."""


@dataclass(slots=True, eq=False)
class Lease:
    """One reader's right to a loan."""

    id: bytes
    peer: PeerId
    network: Hashable
    """Where the reader was when it was lent to."""
    loan: Loan
    ttl: float
    """Seconds that it lives without a sign of life."""
    seen: float
    """When there was the last one."""
    beats: bool = False
    """Heartbeats have begun."""
    end: LeaseEnd | None = None
    due: float = field(default=0.0)
    """The time under which it stands in the book's queue last."""


class LeaseBook:
    """The leases of a node."""

    def __init__(self, most_bytes: int, most_of_network: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._most_of_network = most_bytes if most_of_network is None else most_of_network
        self._of_network: Counter[Hashable] = Counter()
        """Leases."""
        self._bytes_of_network: Counter[Hashable] = Counter()
        """Bytes of the loans that it has leases of."""
        self._leases: dict[bytes, Lease] = {}
        self._of_peer: dict[PeerId, set[bytes]] = {}
        self._away: dict[PeerId, float] = {}
        """Since when readers are not connected."""
        self._queue: list[tuple[float, bytes]] = []
        self.used = 0
        """Bytes of all loans."""
        self.ends: Counter[LeaseEnd] = Counter()
        """How leases have ended so far."""

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, lease_id: bytes) -> Lease | None:
        """For this node itself: the lease, if it lives."""
        return self._leases.get(lease_id)

    # --- lending ---

    def lend(
        self,
        lease_id: bytes,
        loan: Loan,
        peer: PeerId,
        ttl: float,
        now: float,
        network: Hashable = None,
    ) -> Lease:
        """Lend to a peer what may be lent to others already; `network` is where the peer is.

        Raises:
            ResourceExhaustedError: a limit is reached, or the budget; the message names it.
        """
        size = 0 if loan.leases else loan.size
        if self.used + size > self._most_bytes:
            raise ResourceExhaustedError(
                f"{size} bytes cannot be lent: rpc.lease_memory is {self._most_bytes} bytes, of "
                f"which {self.used} are lent",
                may_have_run=False,
            )
        of_peer = len(self._of_peer.get(peer, ()))
        if len(self._leases) >= MOST_LEASES or of_peer >= MOST_LEASES_OF_PEER:
            raise ResourceExhaustedError(
                f"{len(self._leases)} leases, {of_peer} of them of the peer: {MOST_LEASES} and "
                f"{MOST_LEASES_OF_PEER} may be",
                may_have_run=False,
            )
        of_network = self._bytes_of_network[network]
        more = 0 if loan.networks[network] else loan.size
        if of_network + more > self._most_of_network:
            raise ResourceExhaustedError(
                f"{more} bytes cannot be lent: rpc.lease_memory_per_network is "
                f"{self._most_of_network} bytes, of which {of_network} are lent to that network",
                may_have_run=False,
            )
        if self._of_network[network] >= MOST_LEASES_OF_NETWORK:
            raise ResourceExhaustedError(
                f"{MOST_LEASES_OF_NETWORK} leases of a network, and more may not be",
                may_have_run=False,
            )
        lease = Lease(lease_id, peer, network, loan, ttl, now)
        self._of_network[network] += 1
        self._bytes_of_network[network] += more
        loan.networks[network] += 1
        loan.leases += 1
        self.used += size
        self._leases[lease_id] = lease
        self._of_peer.setdefault(peer, set()).add(lease_id)
        self._await(lease)
        return lease

    # --- the reader ---

    def find(self, lease_id: bytes, peer: PeerId, now: float) -> Lease | None:
        """The lease of that peer, which has shown a sign of life; None: it has none of that id."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.peer != peer or self._ended_by(lease, now) is not None:
            return None
        lease.seen = now
        return lease

    def beat(self, ids: Iterable[bytes], peer: PeerId, now: float) -> list[bool]:
        """A heartbeat for several; whether each still lives."""
        alive = []
        for lease_id in ids:
            lease = self.find(lease_id, peer, now)
            alive.append(lease is not None)
            if lease is not None and not lease.beats:
                lease.beats = True
                self._await(lease)
        return alive

    def rest(self, ids: Iterable[bytes], peer: PeerId, now: float) -> None:
        """There will be no more heartbeats: silence is no death, and the time runs."""
        for lease_id in ids:
            lease = self.find(lease_id, peer, now)
            if lease is not None:
                lease.beats = False

    def release(self, lease_id: bytes, peer: PeerId) -> Lease | None:
        """The reader needs it no more; None: it has no such lease."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.peer != peer:
            return None
        self._end(lease, LeaseEnd.RELEASED)
        return lease

    # --- the owner ---

    def withdraw(self, lease_id: bytes) -> Lease | None:
        """This node lends it no more; None: it has ended already."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            self._end(lease, LeaseEnd.WITHDRAWN)
        return lease

    def withdraw_all(self) -> list[Lease]:
        """Lend nothing any more."""
        leases = list(self._leases.values())
        for lease in leases:
            self._end(lease, LeaseEnd.WITHDRAWN)
        return leases

    # --- time ---

    def note_connections(self, connected: frozenset[PeerId], now: float) -> None:
        """Which readers are connected now."""
        for peer, ids in self._of_peer.items():
            if peer in connected:
                self._away.pop(peer, None)
            elif peer not in self._away:
                self._away[peer] = now
                for lease_id in ids:
                    self._await(self._leases[lease_id])

    def expire(self, now: float) -> list[Lease]:
        """End what is due; return it."""
        ended = []
        queue = self._queue
        while queue and queue[0][0] <= now:
            due, lease_id = heapq.heappop(queue)
            lease = self._leases.get(lease_id)
            if lease is None or lease.due != due:
                continue  # it has ended, or stands in the queue in another place
            end = self._ended_by(lease, now)
            if end is None:
                lease.due = 0.0
                self._await(lease)
            else:
                self._end(lease, end)
                ended.append(lease)
        return ended

    @property
    def next_due(self) -> float | None:
        """When :meth:`expire` is to be called; perhaps too early."""
        return self._queue[0][0] if self._queue else None

    def _deadlines(self, lease: Lease) -> list[tuple[float, LeaseEnd]]:
        deadlines = [(lease.seen + lease.ttl, LeaseEnd.EXPIRED)]
        if lease.beats:
            deadlines.append((lease.seen + SILENCE, LeaseEnd.PEER_LOST))
        if (away := self._away.get(lease.peer)) is not None:
            deadlines.append((max(away, lease.seen) + AWAY, LeaseEnd.PEER_LOST))
        return deadlines

    def _ended_by(self, lease: Lease, now: float) -> LeaseEnd | None:
        due, end = min(self._deadlines(lease), key=lambda each: each[0])
        return end if due <= now else None

    def _await(self, lease: Lease) -> None:
        """Have the lease looked at when it may be due, unless that is so already."""
        due = min(each for each, _ in self._deadlines(lease))
        if not lease.due or due < lease.due:
            lease.due = due
            heapq.heappush(self._queue, (due, lease.id))

    def _end(self, lease: Lease, end: LeaseEnd) -> None:
        lease.end = end
        self.ends[end] += 1
        del self._leases[lease.id]
        of_peer = self._of_peer[lease.peer]
        of_peer.discard(lease.id)
        if not of_peer:
            del self._of_peer[lease.peer]
            self._away.pop(lease.peer, None)
        self._of_network[lease.network] -= 1
        lease.loan.networks[lease.network] -= 1
        if not lease.loan.networks[lease.network]:
            self._bytes_of_network[lease.network] -= lease.loan.size
        if not self._of_network[lease.network]:
            del self._of_network[lease.network], self._bytes_of_network[lease.network]
        lease.loan.leases -= 1
        if not lease.loan.leases:
            self.used -= lease.loan.size
        if len(self._queue) > 2 * len(self._leases) + 64:
            self._queue = [(each.due, each.id) for each in self._leases.values()]
            heapq.heapify(self._queue)
