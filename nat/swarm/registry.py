"""The one list of a swarm's connections: which is best, which must go.

Pure bookkeeping; closing is left to the swarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Held, Source, source_of, yielding
from lattica.nat.base.net.addresses import path_rank
from lattica.nat.config import Limits
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.tags import PeerTags

SIMULTANEOUS = 5.0
"""Two connections of opposite directions, made within this many seconds of each other,
come from both peers dialing at once."""

_FEW, _LARGE_SHARE = 32, 10
"""A network with more places than these few, and than one in so many of all, is not spared for its
youth."""


class Registry:
    """Connections by peer, the preferred one first."""

    def __init__(self, local: PeerId, limits: Limits) -> None:
        self._local = local
        self.limits = limits
        self.by_peer: dict[PeerId, list[Connection]] = {}
        self._machines: dict[int, Source] = {}
        """Where each is from, by its `id`; whoever it is."""
        self.total = 0
        self.limits_hit: Counter[str] = Counter()
        """How often a limit cost a connection, by the name of its setting."""
        self.tags = PeerTags()
        """What peers are worth, and which are protected from trimming."""

    def __iter__(self) -> Iterator[Connection]:
        for connections in list(self.by_peer.values()):
            yield from list(connections)

    def best(self, peer_id: PeerId) -> Connection | None:
        """The connection on which new streams to the peer are opened."""
        alive = [c for c in self.by_peer.get(peer_id, ()) if c.closed_reason is None]
        for connection in alive:
            if connection.retired_at is None:
                return connection
        # The one in use has just ended: what it superseded serves again.
        return min(alive, key=lambda c: c.is_relayed, default=None)

    def add(self, connection: Connection) -> bool:
        """Register a connection; True if it is the first to its peer.

        A direct one is always preferred to a relayed one. When both peers dialed at once, or
        found several ways at once, the better way is kept (:func:`path_rank`), and of equal
        ones the connection that the peer with the smaller ID dialed: that is the same one on
        both sides. Otherwise the newer one is preferred, since a peer dials again only when
        its older one is dead.
        """
        connections = self.by_peer.setdefault(connection.peer_id, [])
        for other in connections:
            if other.closed_reason is not None:
                continue  # about to be removed
            loser = connection if self._stays(other, connection) else other
            if loser.retired_at is None:
                loser.retired_at = connection.established_at
        place = 0 if connection.retired_at is None else len(connections)
        connections.insert(place, connection)
        self._machines[id(connection)] = source_of(connection.remote_addr)
        self.total += 1
        return len(connections) == 1

    def _stays(self, old: Connection, new: Connection) -> bool:
        """Whether the older of two connections to a peer remains the one in use."""
        if old.is_relayed is not new.is_relayed:
            return new.is_relayed
        if new.established_at - old.established_at >= SIMULTANEOUS:
            return False
        ranks = path_rank(old.remote_addr), path_rank(new.remote_addr)
        if ranks[0] != ranks[1]:
            return ranks[0] > ranks[1]
        ours_wins = self._local.to_bytes() < old.peer_id.to_bytes()
        preferred = Direction.OUTBOUND if ours_wins else Direction.INBOUND
        return old.direction is not new.direction and old.direction is preferred

    def remove(self, connection: Connection) -> bool:
        """Forget a connection; True if it was the last to its peer."""
        connections = self.by_peer.get(connection.peer_id, [])
        if connection not in connections:
            return False
        connections.remove(connection)
        self._machines.pop(id(connection), None)
        self.total -= 1
        if connections:
            # A retired one serves again rather than leave the peer without.
            self._promote(connections)
            return False
        del self.by_peer[connection.peer_id]
        return True

    def demote(self, connection: Connection) -> None:
        """Retire a connection, and let another one to the peer serve again, if there is one."""
        others = [
            other
            for other in self.by_peer.get(connection.peer_id, ())
            if other is not connection and other.closed_reason is None
        ]
        if others:
            connection.retired_at = connection.established_at
            self._promote(others)

    @staticmethod
    def _promote(connections: list[Connection]) -> None:
        """See to it that one of them is in use, a direct one if possible."""
        if all(other.retired_at is not None for other in connections):
            min(connections, key=lambda other: other.is_relayed).retired_at = None

    # --- what must go ---

    def to_trim(self, now: float, *, adding: int = 0) -> list[Connection]:
        """Connections to close so that the total sinks to the low watermark.

        Empty unless the total, with `adding` more, is over the limit. The network that has most
        yields first, then the peer that has most (:mod:`lattica.nat.base.limits.places`). Spared
        are protected peers, and connections younger than the grace period unless their network has
        more than a few and a tenth of all places. Where shares are equal go first those of the
        machine that has most, those without streams, then those of peers with the smallest tags,
        then the longest idle.
        """
        limits = self.limits
        if self.total + adding <= limits.max_connections:
            return []
        machines = [self._machines[id(connection)] for connection in self]
        of_machine = Counter(machines)
        of_network = Counter(machine.network for machine in machines)
        large = max(_FEW, limits.max_connections // _LARGE_SHARE)
        held = []
        for connection, machine in zip(self, machines, strict=True):
            is_young = now - connection.established_at < limits.trim_grace
            if self.tags.is_protected(connection.peer_id) or (
                is_young and of_network[machine.network] <= large
            ):
                continue
            rank = (
                -of_machine[machine],
                connection.stream_count > 0,
                self.tags.value(connection.peer_id),
                connection.last_stream_at,
            )
            held.append(Held(connection, Source(connection.peer_id, machine.network), 1, rank))
        watermark = int(limits.max_connections * limits.low_watermark)
        room = limits.max_connections - adding
        count = self.total - min(watermark, room)
        return [item.holder for item in islice(yielding(held), count)]

    def to_retire(self, now: float, idle: float) -> list[Connection]:
        """Retired connections that have since had no stream for `idle` seconds."""
        return [
            connection
            for connection in self
            if connection.retired_at is not None
            and not connection.stream_count
            and now - max(connection.retired_at, connection.last_stream_at) >= idle
        ]
