"""The one list of a swarm's connections: which is best, which must go.

Pure bookkeeping; closing is left to the swarm.
"""

from __future__ import annotations

from collections.abc import Iterator

from libp2p.network.tag_store import TagStore

from lattica.identity import PeerId
from lattica.nat.config import Limits
from lattica.nat.connection import Connection, Direction

SIMULTANEOUS = 5.0
"""Two connections of opposite directions, made within this many seconds of each other,
come from both peers dialing at once."""


class Registry:
    """Connections by peer, the preferred one first."""

    def __init__(self, local: PeerId, limits: Limits) -> None:
        self._local = local
        self._limits = limits
        self.by_peer: dict[PeerId, list[Connection]] = {}
        self.total = 0
        self.tags = TagStore()
        """What peers are worth, and which are protected from trimming."""

    def __iter__(self) -> Iterator[Connection]:
        for connections in list(self.by_peer.values()):
            yield from list(connections)

    def best(self, peer_id: PeerId) -> Connection | None:
        """The connection on which new streams to the peer are opened."""
        for connection in self.by_peer.get(peer_id, ()):
            if not connection.retired and connection.closed_reason is None:
                return connection
        return None

    def add(self, connection: Connection) -> bool:
        """Register a connection; True if it is the first to its peer.

        When both peers dialed at once, the connection that the peer with the smaller ID
        dialed is kept, on both sides; of two in one direction the newer one is preferred,
        since a peer dials again only when its older one is dead.
        """
        connections = self.by_peer.setdefault(connection.peer_id, [])
        ours_wins = self._local.to_bytes() < connection.peer_id.to_bytes()
        preferred = Direction.OUTBOUND if ours_wins else Direction.INBOUND
        for other in connections:
            if other.closed_reason is not None:
                continue  # about to be removed
            simultaneous = (
                other.direction is not connection.direction
                and connection.established_at - other.established_at < SIMULTANEOUS
            )
            loser = connection if simultaneous and other.direction is preferred else other
            loser.retired = True
        connections.insert(len(connections) if connection.retired else 0, connection)
        self.total += 1
        return len(connections) == 1

    def remove(self, connection: Connection) -> bool:
        """Forget a connection; True if it was the last to its peer."""
        connections = self.by_peer.get(connection.peer_id, [])
        if connection not in connections:
            return False
        connections.remove(connection)
        self.total -= 1
        if connections:
            # A retired one serves again rather than leave the peer without.
            if all(other.retired for other in connections):
                connections[0].retired = False
            return False
        del self.by_peer[connection.peer_id]
        return True

    # --- what must go ---

    def to_trim(self, now: float, *, adding: int = 0) -> list[Connection]:
        """Connections to close so that the total sinks to the low watermark.

        Empty unless the total, with `adding` more, is over the limit. Spared are protected
        peers and connections younger than the grace period; of the others go first those
        without streams, then those of peers with the smallest tags, then the longest idle.
        """
        limits = self._limits
        if self.total + adding <= limits.max_connections:
            return []
        candidates = [
            connection
            for connection in self
            if not self.tags.is_protected(connection.peer_id)
            and now - connection.established_at >= limits.trim_grace
        ]
        candidates.sort(
            key=lambda c: (
                c.stream_count > 0,
                self.tags.get_tag_value(c.peer_id),
                c.last_stream_at,
            )
        )
        watermark = int(limits.max_connections * limits.low_watermark)
        room = limits.max_connections - adding
        return candidates[: self.total - min(watermark, room)]

    def to_retire(self, now: float, idle: float) -> list[Connection]:
        """Retired connections that have had no stream for `idle` seconds."""
        return [
            connection
            for connection in self
            if connection.retired
            and not connection.stream_count
            and now - max(connection.established_at, connection.last_stream_at) >= idle
        ]
