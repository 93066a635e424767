"""What peers have had of a relay, counted from its events until somebody writes it down. Pure but
for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lattica.daemon.access.database import AccountRow
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.traversal.relay.server.events import (
    CircuitClosed,
    CircuitOpened,
    Refused,
    RelayEvent,
    ReservationMade,
)

MAX_PENDING = 10_000
"""Peers that are counted between two writes; what further ones have is not."""


@dataclass(slots=True)
class _Count:
    first_seen: int
    last_seen: int
    reservations: int = 0
    circuits: int = 0
    refused: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Accounts:
    """To be called with each event of a relay; :meth:`take` gives what has come since."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counts: dict[PeerId, _Count] = {}

    def on_event(self, event: RelayEvent) -> None:
        match event:
            case ReservationMade(peer_id, _, renewed):
                if count := self._of(peer_id):
                    count.reservations += not renewed
            case Refused(peer_id):
                if count := self._of(peer_id):
                    count.refused += 1
            case CircuitOpened(source, target):
                for peer_id in (source, target):
                    if count := self._of(peer_id):
                        count.circuits += 1
            case CircuitClosed(source, target, from_source, from_target):
                self._moved(source, from_source, from_target)
                self._moved(target, from_target, from_source)
            case _:
                pass

    def _moved(self, peer_id: PeerId, sent: int, received: int) -> None:
        if count := self._of(peer_id):
            count.bytes_sent += sent
            count.bytes_received += received

    def _of(self, peer_id: PeerId) -> _Count | None:
        now = int(self._clock())
        count = self._counts.get(peer_id)
        if count is None:
            if len(self._counts) >= MAX_PENDING:
                return None
            count = self._counts[peer_id] = _Count(now, now)
        count.last_seen = now
        return count

    def take(self) -> list[AccountRow]:
        """What is to be added to the accounts."""
        counts, self._counts = self._counts, {}
        return [
            AccountRow(
                str(peer_id),
                count.first_seen,
                count.last_seen,
                count.reservations,
                count.circuits,
                count.refused,
                count.bytes_sent,
                count.bytes_received,
            )
            for peer_id, count in counts.items()
        ]

    def put_back(self, rows: list[AccountRow]) -> None:
        """They could not be written, and count on."""
        for row in rows:
            peer_id = parse_peer_id(row.peer)
            count = self._of(peer_id)
            if count is None:
                return
            count.first_seen = min(count.first_seen, row.first_seen)
            count.reservations += row.reservations
            count.circuits += row.circuits
            count.refused += row.refused
            count.bytes_sent += row.bytes_sent
            count.bytes_received += row.bytes_received
