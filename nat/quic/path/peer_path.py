"""Where a QUIC peer is now: a move is followed once the new address has proved to be the peer's.

qh3's own migration follows a connection through three changes of address and loses it at a lost
challenge, so it is told one address for the connection's life, and moves are ours. What RFC 9000
has as PATH_CHALLENGE and PATH_RESPONSE frames (sections 8.2 and 9) are datagrams of their own
here, so that they go to one address and no other:

    challenge   0x10   connection ID(8)   nonce(16)
    response    0x11   connection ID(8)   HMAC-SHA256(key, nonce)[:16]

The connection ID is the receiver's, as in its QUIC packets; the key comes from the Noise
exchange, one for each direction. Both are of the same size, so nothing is amplified. Unlike in
QUIC either side may move: a server of ours is a peer as much as a client is.

A peer has moved when an authentic packet comes from a new address. Until the new one has answered
everything still goes to the old: whoever forges a source cannot have a connection's data sent
to a victim.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE
from lattica.nat.transport.udp_socket import Address

CHALLENGE, RESPONSE = 0x10, 0x11
SIZE = 1 + CONNECTION_ID_SIZE + 16
_FIRST_WAIT = 0.2
"""Seconds until a challenge is repeated; doubles each time."""
_ATTEMPTS = 6
_PER_PACKET = 3
"""Challenges to a new address for each packet that has come from there: whoever forges a source
shall have no more sent to it than that costs (RFC 9000, section 8.1)."""


def is_path_message(datagram: bytes) -> bool:
    """Whether a datagram is for this module, by its size and first byte."""
    return len(datagram) == SIZE and datagram[0] in (CHALLENGE, RESPONSE)


def connection_id(message: bytes) -> bytes:
    """For which of the receiver's connections a message is."""
    return message[1 : 1 + CONNECTION_ID_SIZE]


class PeerPath:
    """The address of one authenticated peer.

    Args:
        address: where the peer has been during the handshake, which proved it.
        sending_key, receiving_key: 32 bytes each; the peer has them the other way round.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        sending_key: bytes,
        receiving_key: bytes,
        clock: Callable[[], float],
    ) -> None:
        self.address = address
        self._sending_key = sending_key
        self._receiving_key = receiving_key
        self._clock = clock
        self._candidate: Address | None = None
        self._nonce = b""
        self._attempts = 0
        self._packets = 0
        """That have come from the candidate."""
        self._due = 0.0

    def observe(self, source: Address) -> None:
        """An authentic packet has come from `source`."""
        if source == self.address:
            return
        if source == self._candidate:
            self._packets += 1
            return
        self._candidate = source
        self._packets = 1
        self._nonce = os.urandom(16)
        self._attempts = 0
        self._due = self._clock()

    def next_timer(self) -> float | None:
        """When :meth:`challenge` has something to send; None: nothing is in doubt."""
        return None if self._candidate is None else self._due

    def challenge(self, peer_connection_id: bytes) -> tuple[bytes, Address] | None:
        """The challenge to send now, and where to, if one is due.

        An address that does not answer six of them, or three for each packet from there, is
        forgotten.
        """
        now = self._clock()
        if self._candidate is None or now < self._due:
            return None
        if self._attempts >= min(_ATTEMPTS, _PER_PACKET * self._packets):
            self._candidate = None
            return None
        self._due = now + _FIRST_WAIT * 2**self._attempts
        self._attempts += 1
        return bytes((CHALLENGE,)) + peer_connection_id + self._nonce, self._candidate

    def answer(self, challenge: bytes, peer_connection_id: bytes) -> bytes:
        """The response to a challenge of the peer, which goes back to where that came from."""
        proof = _proof(self._sending_key, challenge[1 + CONNECTION_ID_SIZE :])
        return bytes((RESPONSE,)) + peer_connection_id + proof

    def receive_response(self, response: bytes, source: Address) -> bool:
        """Take a response; True if the peer is at a new address from now on.

        Anything but the awaited answer from the address in doubt changes nothing.
        """
        if self._candidate is None or source != self._candidate or not self._attempts:
            return False
        proof = _proof(self._receiving_key, self._nonce)
        if not hmac.compare_digest(proof, response[1 + CONNECTION_ID_SIZE :]):
            return False
        self.address, self._candidate = source, None
        return True


def _proof(key: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, nonce, "sha256")[:16]
