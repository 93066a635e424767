"""Stateless resets: a peer that was started anew says that it knows nothing of a connection.

Source: RFC 9000, section 10.3. Whoever gets a packet for a connection that it does not know answers
with one that looks like any other and ends in a token, which it makes from the packet's connection
ID and a key that survives it. The other side has been told that token when the connection was made,
and ends the connection at once. Without that it would go on for as long as it waits for a peer that
may be busy.

The key is of one socket: packets of a connection that lives, sent by somebody to another socket of
the same node, give a token that ends nothing (section 21.11). A server's token is told by QUIC's
transport parameter, a client's, for which there is none, on stream 0
(:mod:`lattica.nat.quic.session.credit`). Pure.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.quic.qh3.packets import FIXED_BIT, LONG_HEADER
from lattica.nat.transport.udp_socket import Address

TOKEN_SIZE = 16
SMALLEST = 21
"""Bytes of a reset at least: as many as any packet has."""
LARGEST = 42
"""More tells nobody anything. A reset is also shorter than what it answers, so that two sides that
know nothing of each other stop."""
BURST, PER_SECOND = 256, 256
"""Resets that a socket sends: a node that was started anew has many peers, and a packet costs
whoever forges it nothing."""
_CONTEXT = b"lattica-quic/1 stateless reset"


class ResetSender:
    """What one socket answers to packets of connections that it does not know.

    `seed` is the node's secret, 32 bytes; `local` the socket's host and port; `rng(n)` returns n
    unpredictable bytes.
    """

    def __init__(
        self, seed: bytes, local: Address, rng: Callable[[int], bytes] = os.urandom
    ) -> None:
        host, port = local[:2]
        self._key = hmac.digest(seed, b"%s %s %d" % (_CONTEXT, host.encode(), port), "sha256")
        self._rng = rng
        self._bucket = TokenBucket(BURST, PER_SECOND)

    def token(self, connection_id: bytes) -> bytes:
        """The token of a connection whose packets come to this ID of ours."""
        return hmac.digest(self._key, connection_id, "sha256")[:TOKEN_SIZE]

    def answer(self, connection_id: bytes, size: int, now: float) -> bytes | None:
        """The reset for a packet of `size` bytes, if it is to be answered."""
        size = min(size - 1, LARGEST)
        if size < SMALLEST or not take((self._bucket,), 1, now):
            return None
        body = bytearray(self._rng(size - TOKEN_SIZE))
        body[0] = body[0] & ~LONG_HEADER | FIXED_BIT
        return bytes(body) + self.token(connection_id)


def token_of(datagram: bytes) -> bytes | None:
    """The token in what may be a reset; None for what is none."""
    if len(datagram) < SMALLEST or datagram[0] & (FIXED_BIT | LONG_HEADER) != FIXED_BIT:
        return None
    return datagram[-TOKEN_SIZE:]
