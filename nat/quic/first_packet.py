"""What becomes of a packet that belongs to no connection: an answer, a connection, or nothing.

Pure: a datagram and its source in, a decision out. Nothing is answered to what costs its sender
less than the answer, and nothing is remembered of what is not admitted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from lattica.nat.quic.admission import Admission, AdmissionControl, RetryTokens
from lattica.nat.quic.qh3.core import CONNECTION_ID_SIZE, MIN_DATAGRAM
from lattica.nat.quic.qh3.packets import LongHeader, read_long_header, retry, version_negotiation
from lattica.nat.transport.udp_socket import Address

_SHORTEST_FIRST_CID = 8
"""Of what a client makes up as our connection ID, bytes (RFC 9000, section 7.2)."""


@dataclass(frozen=True, slots=True)
class NewClient:
    """Somebody who begins a connection, and is admitted."""

    address: Address
    first_cid: bytes
    """The ID by which this side is addressed until the client has heard of others."""
    original_cid: bytes
    """The one of its very first packet, before any Retry."""
    retry_cid: bytes | None
    """The source ID of our Retry, if there was one: the address is proved then."""
    datagram_size: int


class FirstPackets:
    """Decides for all sockets of a node; counts handshakes in `admission`.

    `rng(n)` returns n unpredictable bytes.
    """

    def __init__(
        self,
        admission: AdmissionControl,
        tokens: RetryTokens,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.admission = admission
        self._tokens = tokens
        self._rng = rng

    def receive(self, datagram: bytes, source: Address) -> NewClient | bytes | None:
        """Who begins a connection; or what to answer to `source`; or None.

        The caller counts a client's handshake (:meth:`AdmissionControl.begin`).
        """
        if len(datagram) < MIN_DATAGRAM:
            return None
        header = read_long_header(datagram)
        if header is None:
            return None
        if not header.is_known_version:
            return None if header.negotiates else version_negotiation(header)
        if not header.is_initial or len(header.destination_cid) < _SHORTEST_FIRST_CID:
            return None
        original_cid, retry_cid = header.destination_cid, None
        proof = self._tokens.validate(source, header.token) if header.token else None
        if proof is not None and proof[1] == header.destination_cid:
            original_cid, retry_cid = proof
        decision = self.admission.decide(source, validated=retry_cid is not None)
        if decision is Admission.RETRY:
            return self._ask_for_proof(header, source)
        if decision is Admission.DROP:
            return None
        return NewClient(source, header.destination_cid, original_cid, retry_cid, len(datagram))

    def _ask_for_proof(self, header: LongHeader, source: Address) -> bytes:
        retry_cid = self._rng(CONNECTION_ID_SIZE)
        token = self._tokens.create(source, header.destination_cid, retry_cid)
        return retry(header, retry_cid, token)
