"""Signed envelopes and peer records: py-libp2p reads ours, we read its, and forgeries fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.peerstore import create_signed_peer_record

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import (
    DOMAIN,
    MAX_ADDRS,
    MAX_RECORD,
    PAYLOAD_TYPE,
    PeerRecord,
    open_record,
    seal_record,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.libp2p.border import libp2p_addr, libp2p_id
from lattica.nat.pb import envelope_pb2 as pb
from tests.support.keys.stranger_keys import KINDS, stranger_key

OWN = Identity(b"o" * 32)
OTHER = Identity(b"p" * 32)
ADDRS = (Multiaddr("/ip4/192.0.2.1/tcp/1"), Multiaddr("/ip6/2001:db8::1/udp/2/quic-v1/noise"))
KIND = b"\x01\x02"


def opened(data, *, domain="test", kind=KIND, limit=10_000):
    return open_envelope(data, domain, kind, "a test", limit=limit)


# --- envelopes ---


@given(st.text(max_size=40), st.binary(max_size=8), st.binary(max_size=200))
def test_what_is_sealed_is_opened(domain, kind, payload):
    data = seal_envelope(OWN, domain, kind, payload)
    envelope = opened(data, domain=domain, kind=kind)
    assert (envelope.signer, envelope.payload) == (OWN.public_key, payload)


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_may_seal_with_any_key(kind):
    key = stranger_key(kind)
    signed = b"\x04test\x02\x01\x02\x07payload"  # each with its length in front
    envelope = pb.Envelope(
        public_key=key.encoded, payload_type=KIND, payload=b"payload", signature=key.sign(signed)
    )
    assert opened(envelope.SerializeToString()).signer.encode() == key.encoded


def test_an_envelope_is_for_one_purpose_and_its_bytes_only():
    data = seal_envelope(OWN, "test", KIND, b"payload")
    with pytest.raises(RemoteProtocolError, match="signature"):
        opened(data, domain="another")
    with pytest.raises(RemoteProtocolError, match="something else"):
        opened(data, kind=b"\x01\x03")
    with pytest.raises(RemoteProtocolError, match="bytes"):
        opened(data, limit=len(data) - 1)
    # The lengths are signed, too: no byte can move from one part to the next.
    moved = pb.Envelope.FromString(data)
    moved.payload_type, moved.payload = KIND + b"p", b"ayload"
    with pytest.raises(RemoteProtocolError, match="signature"):
        opened(moved.SerializeToString(), kind=KIND + b"p")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    with pytest.raises(RemoteProtocolError):
        opened(data)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data):
    sealed = bytearray(seal_envelope(OWN, "test", KIND, b"payload"))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        opened(bytes(sealed))


# --- peer records ---


@given(st.integers(0, 2**64 - 1), st.integers(0, 2))
def test_records_round_trip(seq, count):
    data = seal_record(OWN, seq, ADDRS[:count])
    assert open_record(data) == PeerRecord(OWN.peer_id, seq, ADDRS[:count])


def test_py_libp2p_reads_our_records():
    _, record = consume_envelope(seal_record(OWN, 7, ADDRS[:1]), DOMAIN)
    assert (record.peer_id, record.seq) == (libp2p_id(OWN.peer_id), 7)
    assert record.addrs == [libp2p_addr(ADDRS[0])]


def test_records_of_py_libp2p_are_read():
    keys = create_new_key_pair(OWN.seed)
    envelope = create_signed_peer_record(
        libp2p_id(OWN.peer_id), [libp2p_addr(ADDRS[0])], keys.private_key
    )
    record = open_record(envelope.marshal_envelope())
    assert (record.peer_id, record.addrs) == (OWN.peer_id, ADDRS[:1])


def sealed(record: pb.PeerRecord, signer: Identity = OWN) -> bytes:
    return seal_envelope(signer, DOMAIN, PAYLOAD_TYPE, record.SerializeToString())


def test_nobody_can_say_where_somebody_else_is():
    record = pb.PeerRecord(peer_id=OTHER.peer_id.to_bytes(), seq=1)
    with pytest.raises(RemoteProtocolError, match="signed by somebody else"):
        open_record(sealed(record))
    for peer_id in (b"", b"nobody", bytes(100)):
        with pytest.raises(RemoteProtocolError, match="not a peer ID"):
            open_record(sealed(pb.PeerRecord(peer_id=peer_id)))
    with pytest.raises(RemoteProtocolError, match="protobuf"):
        open_record(seal_envelope(OWN, DOMAIN, PAYLOAD_TYPE, b"\xff"))


def test_addresses_that_are_none_or_too_many_are_left_out():
    private = [Multiaddr(f"/ip4/10.1.0.1/tcp/{port}") for port in range(1, 100)]
    public = Multiaddr("/ip4/8.8.8.8/tcp/4001")
    raw = [b"\xff\xff", b"", *(addr.to_bytes() for addr in (*private, public))]
    infos = [pb.PeerRecord.AddressInfo(multiaddr=one) for one in raw]
    record = open_record(sealed(pb.PeerRecord(peer_id=OWN.peer_id.to_bytes(), addresses=infos)))
    assert record.seq == 0
    assert record.addrs == (public, *private[: MAX_ADDRS - 1])
    with pytest.raises(RemoteProtocolError, match=f"{MAX_RECORD} are allowed"):
        open_record(seal_record(OWN, 1, [ADDRS[1]] * 400))
