"""QUIC address validation: Retry tokens, and when a server asks for one.

Whoever sends a first packet from a forged address costs a server that answers at once a
handshake and its memory. While few handshakes are under way that is accepted, because a Retry
costs an honest client a round trip; above a threshold a server answers with a token only, and
keeps no state until the token comes back from the address it was sent to (RFC 9000, 8.1.2).
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.net.network_groups import NetworkSlots
from lattica.nat.transport.udp_socket import Address

TOKEN_LIFETIME = 10.0
"""Seconds a token is good for; it comes back within a round trip."""
KEY_LIFETIME = 60.0
"""Seconds after which tokens are made with a new key; the one before is still accepted."""
MAX_CONNECTION_ID = 20

_NONCE_SIZE = 12
_TAG_SIZE = 16
_TIME = struct.Struct(">d")
_LONGEST_TOKEN = 1 + _NONCE_SIZE + _TIME.size + 1 + 2 * MAX_CONNECTION_ID + _TAG_SIZE
_SHORTEST_TOKEN = 1 + _NONCE_SIZE + _TIME.size + 1 + _TAG_SIZE


class RetryTokens:
    """Makes tokens that say where a client is, and checks them when they come back.

    A token is sealed (AES-128-GCM), and tells nobody but us the time and the connection IDs in
    it. Within its lifetime it can be used again, but only from its address and for the same
    connection IDs. Memory: two keys.

    Args:
        clock: seconds, never decreasing.
        rng: `rng(n)` returns n unpredictable bytes.
    """

    def __init__(
        self, clock: Callable[[], float], rng: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._keys: dict[int, AESGCM] = {}

    def create(
        self, addr: Address, original_destination_cid: bytes, retry_source_cid: bytes
    ) -> bytes:
        """Return the token (at most 78 bytes) of a Retry packet to `addr`.

        Args:
            original_destination_cid: from the client's packet, at most 20 bytes.
            retry_source_cid: the source connection ID of the Retry packet, at most 20 bytes.
        """
        if max(len(original_destination_cid), len(retry_source_cid)) > MAX_CONNECTION_ID:
            raise LocalProtocolError("a connection ID is at most 20 bytes")
        now = self._clock()
        generation = int(now // KEY_LIFETIME)
        self._keys = {n: key for n, key in self._keys.items() if n >= generation - 1}
        key = self._keys.get(generation)
        if key is None:
            key = self._keys[generation] = AESGCM(self._rng(16))
        nonce = self._rng(_NONCE_SIZE)
        plain = (
            _TIME.pack(now)
            + bytes((len(original_destination_cid),))
            + original_destination_cid
            + retry_source_cid
        )
        return bytes((generation & 0xFF,)) + nonce + key.encrypt(nonce, plain, _packed(addr))

    def validate(self, addr: Address, token: bytes) -> tuple[bytes, bytes] | None:
        """Return the connection IDs `(original_destination_cid, retry_source_cid)`.

        None if we did not make this token for `addr`, or longer ago than its lifetime; such a
        packet is to be treated as one without a token. The caller still has to compare
        `retry_source_cid` with the packet's destination connection ID.
        """
        if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
            return None
        now = self._clock()
        generation = int(now // KEY_LIFETIME)
        generation -= (generation - token[0]) & 0xFF  # the last one with this low byte
        key = self._keys.get(generation)
        if key is None:
            return None
        body = 1 + _NONCE_SIZE
        try:
            plain = key.decrypt(token[1:body], token[body:], _packed(addr))
        except InvalidTag:
            return None
        (created,) = _TIME.unpack_from(plain)
        if not 0 <= now - created <= TOKEN_LIFETIME:
            return None
        start = _TIME.size + 1
        end = start + plain[_TIME.size]
        return plain[start:end], plain[end:]


def _packed(addr: Address) -> bytes:
    return _host(addr).packed + addr[1].to_bytes(2, "big")


def _host(addr: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(addr[0].partition("%")[0])


class Admission(Enum):
    """What to do with a client's first packet."""

    ACCEPT = "accept"
    RETRY = "retry"
    """Answer with a Retry packet and forget it."""
    DROP = "drop"
    """Answer nothing; an honest client sends it again, when there may be room."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Handshakes under way at which :class:`AdmissionControl` becomes stricter."""

    retry_above: int = 64
    """Up to here nobody is asked for a token."""
    maximum: int = 2048
    """No further handshake begins; as `Limits.max_pending_inbound`."""
    per_network: int = 512
    """The same for the clients of one network, once tokens are asked for: one host with many
    source ports cannot keep everybody else out."""


class AdmissionControl:
    """Decides about first packets; counts the handshakes under way.

    They are counted in :class:`~lattica.nat.base.net.network_groups.NetworkSlots`.
    """

    SLOTS = 1024

    def __init__(
        self,
        limits: AdmissionLimits | None = None,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._limits = limits or AdmissionLimits()
        self._slots = NetworkSlots(self.SLOTS, rng)
        self._counters = [0] * self.SLOTS
        self.half_open = 0
        """Handshakes under way."""

    def decide(self, addr: Address, *, validated: bool) -> Admission:
        """What to do with a first packet from `addr`; `validated`: it has a valid token."""
        limits = self._limits
        if self.half_open >= limits.maximum:
            return Admission.DROP
        if self.half_open < limits.retry_above:
            return Admission.ACCEPT
        if self._counters[self._slots.slot_of(addr[0])] >= limits.per_network:
            return Admission.DROP
        return Admission.ACCEPT if validated else Admission.RETRY

    def begin(self, addr: Address) -> int:
        """A handshake with `addr` begins. Returns the ticket that :meth:`finish` takes."""
        slot = self._slots.slot_of(addr[0])
        self._counters[slot] += 1
        self.half_open += 1
        return slot

    def finish(self, ticket: int) -> None:
        """A handshake is over, one way or the other; once for each :meth:`begin`."""
        if self._counters[ticket] <= 0:
            raise LocalProtocolError("this handshake has been finished before")
        self._counters[ticket] -= 1
        self.half_open -= 1
