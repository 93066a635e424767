"""Reservation vouchers: a relay's signed word that it relays for a peer until some time.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md "Reservation Vouchers",
and https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.keys.peer_id import decode_peer_id
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import circuit_pb2 as pb

DOMAIN = "libp2p-relay-rsvp"
PAYLOAD_TYPE = b"\x03\x02"
"""Two bytes as they are, as go and js write it; not the varint of the codec's number."""
_MAX_VOUCHER = 2048


@dataclass(frozen=True, slots=True)
class Voucher:
    """`relay` relays for `peer` until `expiration` (Unix time, seconds)."""

    relay: PeerId
    peer: PeerId
    expiration: int


def seal(identity: Identity, peer: PeerId, expiration: int) -> bytes:
    """A voucher of this relay for `peer`.

    Raises:
        LocalProtocolError: `expiration` is negative or beyond 64 bits.
    """
    try:
        voucher = pb.Voucher(
            relay=identity.peer_id.to_bytes(), peer=peer.to_bytes(), expiration=expiration
        )
    except ValueError as error:
        raise LocalProtocolError(f"a voucher cannot expire at {expiration}: {error}") from None
    payload = voucher.SerializeToString()
    return seal_envelope(identity, DOMAIN, PAYLOAD_TYPE, payload)


def open_voucher(data: bytes) -> Voucher:
    """Read a voucher and check that the relay it names has signed it.

    Whether it has expired, and is for whom it should be, is for the caller to see. Raises:
        RemoteProtocolError: it is no voucher, or the signature is not the relay's.
    """
    opened = open_envelope(data, DOMAIN, PAYLOAD_TYPE, "a voucher", limit=_MAX_VOUCHER)
    signer = PeerId.from_public_key(opened.signer)
    message = parse_message(pb.Voucher(), opened.payload, "the voucher")
    relay, peer = decode_peer_id(message.relay), decode_peer_id(message.peer)
    if relay != signer:
        raise RemoteProtocolError(f"a voucher of {relay} is signed by {signer}")
    return Voucher(relay, peer, message.expiration)
