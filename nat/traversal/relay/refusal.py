"""What a relay says no with, as errors that a person understands."""

from __future__ import annotations

from lattica.nat.base.clocks import clocks_agree
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.printable import utc_text
from lattica.nat.traversal.relay.messages import HopStatus, Status
from lattica.nat.traversal.relay.token import open_token

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


def connect_refused(
    relay: PeerId, answer: HopStatus, token: bytes, wall: float
) -> RelayRefusedError:
    """The answer to a request for a circuit was not OK.

    `token` is what was shown (empty: none), `wall` this machine's Unix time.
    """
    reason = _CONNECT.get(answer.status, "the relay refuses the circuit")
    return RelayRefusedError(relay, answer.status, reason + _clocks(answer, token, wall))


def reserve_refused(
    relay: PeerId, answer: HopStatus, token: bytes, wall: float
) -> RelayRefusedError:
    """The answer to a request for a reservation was not OK; as :func:`connect_refused`."""
    reason = _RESERVE.get(answer.status, "the relay refuses the reservation")
    return RelayRefusedError(relay, answer.status, reason + _clocks(answer, token, wall))


def _clocks(answer: HopStatus, token: bytes, wall: float) -> str:
    """Whose clock says what, where that may be why: a token ends by the relay's."""
    if answer.clock is None:
        return ""
    ends = open_token(token).not_after if token else 0
    differ = not clocks_agree(answer.clock - wall)
    text = ""
    if 0 < ends <= answer.clock:
        text = f"; the token ran out at {utc_text(ends)}, as the relay's clock says it is "
    elif differ:
        text = "; the relay's clock, by which tokens run out, says it is "
    if text:
        text += utc_text(answer.clock)
    if differ:
        text += f", and this machine's {utc_text(wall)}: one of the two is wrong"
    return text
