"""Circuit relay v2 messages and vouchers: the bytes that others read and write."""

from __future__ import annotations

import pytest

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.envelope import seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.pb import circuit_pb2 as pb
from lattica.nat.traversal.relay.messages import (
    MAX_MESSAGE,
    MAX_RELAY_ADDRS,
    Connect,
    HopStatus,
    Limit,
    Reservation,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.voucher import DOMAIN, PAYLOAD_TYPE, Voucher, open_voucher, seal

RELAY, PEER = Identity.generate(), Identity.generate()
PEER_BYTES = PEER.peer_id.to_bytes()
RELAY_BYTES = RELAY.peer_id.to_bytes()
ADDR = Multiaddr(f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY.peer_id}")


# --- bytes as in the specification ---


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # A type of zero is written: proto2 requires the field.
        (Reserve(), "0800"),
        (Connect(PEER.peer_id), "0801 1228 0a26" + PEER_BYTES.hex()),
        (HopStatus(Status.NO_RESERVATION), "0802 28cc01"),
        (HopStatus(Status.PERMISSION_DENIED, clock=1_800_000_000), "0802 28ca01 809d01 80a4a7da06"),
        (HopStatus(Status.OK, limit=Limit(120, 1 << 20)), "0802 2206 0878 10808040 2864"),
        (HopStatus(Status.OK, Reservation(1_700_000_000)), "0802 1a06 0880e2cfaa06 2864"),
        (StopConnect(PEER.peer_id), "0800 1228 0a26" + PEER_BYTES.hex()),
        (StopStatus(Status.CONNECTION_FAILED), "0801 20cb01"),
    ],
)
def test_bytes_are_those_of_the_specification(message, expected):
    assert encode(message).hex() == expected.replace(" ", "")


@pytest.mark.parametrize("limit", [Limit(), Limit(0, 0), Limit(None, 0)])
def test_limit_without_limits_is_not_sent(limit):
    # go and js take any limit for a connection that applications must opt in to.
    assert encode(HopStatus(Status.OK, limit=limit)) == encode(HopStatus(Status.OK))
    assert encode(StopConnect(PEER.peer_id, limit)) == encode(StopConnect(PEER.peer_id))


def test_absent_and_zero_limits_mean_none():
    for limit in (pb.Limit(), pb.Limit(duration=0, data=0)):
        message = pb.StopMessage(
            type=pb.StopMessage.CONNECT, peer=pb.Peer(id=PEER_BYTES), limit=limit
        )
        assert decode_stop(message.SerializeToString()) == StopConnect(PEER.peer_id)
    answer = pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, limit=pb.Limit(data=7))
    assert decode_hop(answer.SerializeToString()) == HopStatus(Status.OK, limit=Limit(None, 7))


def test_absent_type_is_zero():
    # go reads it so, and writers of proto3 leave zeros out.
    assert decode_hop(b"") == Reserve()
    without_type = encode(StopConnect(PEER.peer_id)).removeprefix(b"\x08\x00")
    assert decode_stop(without_type) == StopConnect(PEER.peer_id)


def test_peer_addresses_and_unknown_fields_are_ignored():
    peer = pb.Peer(id=PEER_BYTES, addrs=[b"not an address"])
    data = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=peer).SerializeToString()
    assert decode_hop(data + b"\xf2\x01\x03abc") == Connect(PEER.peer_id)


def test_reservation_keeps_the_addresses_that_can_be_read():
    private = [Multiaddr(f"/ip4/10.1.0.1/tcp/{port}") for port in range(1, 40)]
    public = Multiaddr("/ip4/8.8.8.8/tcp/4001")
    raw = [b"\xff\xff", *(addr.to_bytes() for addr in (*private, public))]
    reservation = pb.Reservation(expire=5, addrs=raw)
    message = pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, reservation=reservation)
    # Not every relay names the best first.
    expected = Reservation(5, (public, *private[: MAX_RELAY_ADDRS - 1]))
    assert decode_hop(message.SerializeToString()) == HopStatus(Status.OK, expected)


# --- what is none ---


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\xff" * 12,
        b"\x08\x07",  # unknown type
        b"\x08\x01",  # connect without a peer
        b"\x08\x01\x12\x00",  # ... with an empty one
        b"\x08\x01\x12\x04\x0a\x02\x12\x20",  # ... with half a multihash
        b"\x08\x02",  # status without one
        b"\x08\x02\x28\xac\x02",  # ... with an unknown one (300)
        b"\x08\x02\x28\x64\x1a\x85\x10\x1a\x82\x10" + bytes(2050),  # a voucher too long
        bytes(MAX_MESSAGE + 1),
    ],
    ids=lambda data: data[:12].hex(),
)
def test_bad_hop_message_is_the_peers_fault(data):
    with pytest.raises(RemoteProtocolError):
        decode_hop(data)


@pytest.mark.parametrize("data", [b"", b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x01\x20\x01"])
def test_bad_stop_message_is_the_peers_fault(data):
    with pytest.raises(RemoteProtocolError):
        decode_stop(data)


@pytest.mark.parametrize("expire", [-1, 1 << 64])
def test_what_does_not_fit_is_the_callers_fault(expire):
    with pytest.raises(LocalProtocolError):
        encode(HopStatus(Status.OK, Reservation(expire)))
    with pytest.raises(LocalProtocolError):
        seal(RELAY, PEER.peer_id, expire)
    with pytest.raises(LocalProtocolError, match="too long"):
        encode(HopStatus(Status.OK, Reservation(1, voucher=bytes(MAX_MESSAGE))))


# --- vouchers ---


def test_voucher_says_who_relays_for_whom_until_when():
    data = seal(RELAY, PEER.peer_id, 1_700_000_000)
    assert open_voucher(data) == Voucher(RELAY.peer_id, PEER.peer_id, 1_700_000_000)
    assert len(data) < 250


def forged(*, signer=RELAY, relay=RELAY_BYTES, domain=DOMAIN, kind=PAYLOAD_TYPE, body=None):
    """An envelope that differs from a voucher in one respect."""
    if body is None:
        voucher = pb.Voucher(relay=relay, peer=PEER_BYTES, expiration=7)
        body = voucher.SerializeToString()
    return seal_envelope(signer, domain, kind, body)


def test_forger_of_vouchers_makes_good_ones_too():
    assert open_voucher(forged()) == Voucher(RELAY.peer_id, PEER.peer_id, 7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        bytes(3000),
        forged(signer=PEER),
        forged(domain="libp2p-peer-record"),
        forged(kind=b"\x03\x01"),
        forged(body=b"\xff"),
        forged(body=b""),
        forged(relay=b"nobody"),
        forged()[:-1],
        forged().replace(PEER_BYTES, RELAY.peer_id.to_bytes()),
    ],
)
def test_bad_voucher_is_the_relays_fault(data):
    with pytest.raises(RemoteProtocolError):
        open_voucher(data)
