"""Peer records: a peer's addresses, in its own words and signed, for others to pass on.

Source: https://github.com/libp2p/specs/blob/master/RFC/0003-routing-records.md. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id
from lattica.nat.base.net.addresses import decode_multiaddr, order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import envelope_pb2 as pb

DOMAIN = "libp2p-peer-record"
PAYLOAD_TYPE = b"\x03\x01"
"""Two bytes as they are, as go and js write it; not the varint of the codec's number."""
MAX_RECORD = 8 * 1024
"""Bytes of a record in its envelope."""
MAX_ADDRS = 64


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What `peer_id` says its addresses are."""

    peer_id: PeerId
    seq: int
    """Grows with each record of the peer; below 2**64."""
    addrs: tuple[Multiaddr, ...]


def seal_record(identity: Identity, seq: int, addrs: Iterable[Multiaddr]) -> bytes:
    """A record of our own addresses in its signed envelope."""
    record = pb.PeerRecord(
        peer_id=identity.peer_id.to_bytes(),
        seq=seq,
        addresses=[pb.PeerRecord.AddressInfo(multiaddr=addr.to_bytes()) for addr in addrs],
    )
    return seal_envelope(identity, DOMAIN, PAYLOAD_TYPE, record.SerializeToString())


def open_record(data: bytes) -> PeerRecord:
    """Read a record in its envelope, of which the peer that it names is the signer.

    Of its addresses those that are none are left out, and of more than :data:`MAX_ADDRS` the best
    to dial are kept.

    Raises:
        RemoteProtocolError: it is none, or not signed by its peer.
    """
    opened = open_envelope(data, DOMAIN, PAYLOAD_TYPE, "a peer record", limit=MAX_RECORD)
    message = parse_message(pb.PeerRecord(), opened.payload, "the peer record")
    peer_id = decode_peer_id(message.peer_id)
    if peer_id != PeerId.from_public_key(opened.signer):
        raise RemoteProtocolError(f"the peer record of {peer_id} is signed by somebody else")
    # No more than a record of 8 KiB has room for.
    addrs = [addr for info in message.addresses if (addr := _addr(info.multiaddr)) is not None]
    if len(addrs) > MAX_ADDRS:
        addrs = order_addresses(addrs, limit=MAX_ADDRS)
    return PeerRecord(peer_id, message.seq, tuple(addrs))


def _addr(data: bytes) -> Multiaddr | None:
    try:
        return decode_multiaddr(data)
    except RemoteProtocolError:
        return None
