"""What a relay says no with, as errors that a person understands."""

from __future__ import annotations

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.messages import Status

_CONNECT = {
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay has too many circuits",
    Status.PERMISSION_DENIED: "the relay does not allow it: both peers must be on its "
    "allow-list, have a token, or be accepted by the service that its operator has it ask, by the "
    "IDs of the keys that they use now",
    Status.CONNECTION_FAILED: "the relay cannot reach the peer, or the peer refuses",
    Status.NO_RESERVATION: "the peer has no reservation at the relay, or no longer",
}
_RESERVE = {
    Status.RESERVATION_REFUSED: "the relay gives this node no reservation",
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay has too many reservations",
    Status.PERMISSION_DENIED: "the relay does not allow this node a reservation: the ID of the key "
    "in use must be on its allow-list, have a token, or be accepted by the service that its "
    "operator has it ask",
}


class RelayRefusedError(LatticaError):
    """A relay refused a circuit or a reservation; :attr:`status` says how it put it."""

    def __init__(self, relay: PeerId, status: Status, reason: str) -> None:
        super().__init__(f"{reason} ({status.name})")
        self.relay = relay
        self.status = status


def connect_refused(relay: PeerId, status: Status) -> RelayRefusedError:
    """The answer to a request for a circuit was not OK."""
    return RelayRefusedError(relay, status, _CONNECT.get(status, "the relay refuses the circuit"))


def reserve_refused(relay: PeerId, status: Status) -> RelayRefusedError:
    """The answer to a request for a reservation was not OK."""
    return RelayRefusedError(
        relay, status, _RESERVE.get(status, "the relay refuses the reservation")
    )
