"""The identify message: round trips, py-libp2p's reading of it, bounds, and garbage."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.identity.identify.pb.identify_pb2 import Identify as Theirs

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import MAX_RECORD
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import MAX_PATIENCE
from lattica.nat.mux.patience import NO_PATIENCE, Patience
from lattica.nat.pb import identify_pb2 as pb
from lattica.nat.services.identify.messages import (
    MAX_ADDRS,
    MAX_ADDRS_BYTES,
    MAX_AGENT,
    MAX_FIRST,
    MAX_MESSAGE,
    MAX_PROTOCOLS,
    Identify,
    decode,
    encode,
    encode_parts,
)

ADDRS = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 201)]
# Text that UTF-8 has no bytes for cannot be said.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
addrs = st.sampled_from(ADDRS)
messages = st.builds(
    Identify,
    public_key=st.binary(max_size=40),
    listen_addrs=st.lists(addrs, max_size=4).map(tuple),
    protocols=st.lists(texts, max_size=4).map(tuple),
    observed_addr=st.none() | addrs,
    protocol_version=texts,
    agent_version=texts,
    signed_record=st.binary(max_size=40),
)


@given(messages)
def test_round_trips(message):
    assert decode(encode(message)) == message


def test_of_addresses_that_are_long_together_the_first_are_read():
    peer = Identity.generate().peer_id
    circuit = f"/p2p/{peer}/p2p-circuit/p2p/{peer}"
    many = [Multiaddr(f"/dns4/{'a' * 60}.{n}.example/tcp/1{circuit}") for n in range(MAX_ADDRS)]
    size = len(many[-1].to_bytes())
    assert size * (MAX_ADDRS - 1) > MAX_ADDRS_BYTES
    read = decode(encode(Identify(listen_addrs=tuple(many)))).listen_addrs
    assert list(read) == many[: len(read)]
    assert MAX_ADDRS_BYTES - size <= sum(len(addr.to_bytes()) for addr in read) <= MAX_ADDRS_BYTES


def test_addresses_of_very_many_parts_are_not_read(monkeypatch):
    """What a peer may have written out as text, in one message, is little."""
    read = []
    write = Multiaddr._decode

    def counted(self: Multiaddr, data: bytes) -> None:
        read.append(len(data))
        write(self, data)

    monkeypatch.setattr(Multiaddr, "_decode", counted)
    certhash = bytes.fromhex("d203221220") + bytes(32)
    message = pb.Identify(
        listen_addrs=[certhash * 27] * 30 + [b"\x04\xc0\x00\x02\x01" * 9] * 34,
        observed_addr=certhash * 27,
    )
    assert decode(message.SerializeToString()) == Identify()
    assert not read


@given(messages)
def test_py_libp2p_reads_the_same(message):
    theirs = Theirs.FromString(encode(message))
    assert theirs.agent_version == message.agent_version
    assert theirs.protocol_version == message.protocol_version
    assert list(theirs.protocols) == list(message.protocols)
    assert [Multiaddr(raw) for raw in theirs.listen_addrs] == list(message.listen_addrs)
    assert theirs.public_key == message.public_key
    assert theirs.signedPeerRecord == message.signed_record
    assert decode(theirs.SerializeToString()) == message


@pytest.mark.parametrize("protocols", [20, 400])
@pytest.mark.parametrize("count", [0, 1, 17, 33, 64])
def test_the_first_message_is_short_enough_for_everybody(count, protocols):
    relay = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    relayed = [
        Multiaddr(f"/ip4/203.0.113.{n}/udp/4001/quic-v1/noise/p2p/{relay}/p2p-circuit")
        for n in range(count)
    ]
    loopback = [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 9)]
    public = Multiaddr("/ip4/1.2.3.4/tcp/4001")
    message = Identify(
        public_key=b"k" * 36,
        listen_addrs=(*loopback, *relayed, public),
        protocols=tuple(f"/test/protocol/{n}" for n in range(protocols)),
        agent_version="x",
        signed_record=b"r" * (70 * count),
    )
    first, *rest = encode_parts(message)
    assert len(first) <= MAX_FIRST
    assert len(rest) <= 1
    assert decode(first).agent_version == "x"
    assert decode(b"".join([first, *rest])) == replace(
        decode(first), signed_record=message.signed_record
    )
    if len(encode(message)) <= MAX_FIRST:
        assert decode(first) == message
    elif protocols == 20:
        kept = decode(first).listen_addrs
        assert public in kept[:3]
        assert set(kept) <= set(message.listen_addrs)
        assert set(kept) >= set(relayed) or not set(kept) >= set(loopback)
        assert decode(first).protocols == message.protocols


def test_what_is_too_much_is_left_out():
    message = pb.Identify(
        agent_version=b"x" * 1000,
        listen_addrs=[addr.to_bytes() for addr in ADDRS],
        protocols=[b"/test/%d" % number for number in range(2000)],
        signed_peer_record=bytes(MAX_RECORD + 1),
    )
    found = decode(message.SerializeToString())
    assert found.agent_version == "x" * MAX_AGENT
    assert list(found.listen_addrs) == ADDRS[:MAX_ADDRS]
    assert len(found.protocols) == MAX_PROTOCOLS
    assert found.signed_record == b""


def test_what_is_neither_text_nor_address_is_left_out():
    message = pb.Identify(
        agent_version=b"\xff",
        protocol_version=b"\xff",
        listen_addrs=[b"", b"\xff\xff", ADDRS[0].to_bytes()],
        protocols=[b"\xff", b"/x"],
        observed_addr=b"\xff\xff\x7f\x01",
    )
    found = decode(message.SerializeToString())
    assert found == Identify(listen_addrs=(ADDRS[0],), protocols=("/x",))
    assert decode(b"") == Identify()


@pytest.mark.parametrize("data", [b"\xff", bytes(MAX_MESSAGE + 1)])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert decode(encode(message)) == message


def test_patience_is_told_and_bounded() -> None:
    told = Patience(known=30.0, blind=12.5)
    assert decode(encode(Identify(patience=told))).patience == told
    boast = pb.Identify(patience=pb.Patience(known=4_000_000_000, blind=86_400_000))
    assert decode(boast.SerializeToString()).patience == Patience(MAX_PATIENCE, MAX_PATIENCE)
    assert decode(encode(Identify(agent_version="x"))).patience == NO_PATIENCE
    theirs = Theirs.FromString(encode(Identify(agent_version="x", patience=told)))
    assert theirs.agent_version == "x"
