"""Peer IDs: their forms, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID

from lattica.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id, parse_peer_id
from lattica.nat.base.keys.public_keys import decode_public_key
from tests.support.keys.stranger_keys import KINDS, stranger_key

# The test vector for Ed25519 keys of libp2p's specs/peer-ids.
SPEC_PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"

digests = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest)
inlined = st.binary(min_size=1, max_size=42).map(lambda key: bytes((0, len(key))) + key)
multihashes = digests | inlined


@given(multihashes)
def test_every_form_is_read_again(raw):
    peer_id = PeerId(raw)
    assert peer_id.to_bytes() == raw
    assert decode_peer_id(raw) == peer_id
    assert PeerId.from_base58(peer_id.to_base58()) == peer_id
    assert hash(PeerId(raw)) == hash(peer_id)
    assert parse_peer_id(peer_id.to_cid()) == peer_id
    assert str(peer_id) == str(ID(raw))  # py-libp2p's


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_but_what_is_said(raw):
    sound = (raw[:2] == b"\x12\x20" and len(raw) == 34) or (
        raw[:1] == b"\0" and 2 < len(raw) <= 44 and raw[1] == len(raw) - 2
    )
    if sound:
        assert decode_peer_id(raw).to_bytes() == raw
        return
    with pytest.raises(AddressError):
        PeerId(raw)
    with pytest.raises(RemoteProtocolError):
        decode_peer_id(raw)


@pytest.mark.parametrize("kind", KINDS)
def test_short_keys_are_their_own_names(kind):
    stranger = stranger_key(kind)
    peer_id = PeerId.from_public_key(decode_public_key(stranger.encoded))
    if kind in ("ed25519", "secp256k1"):
        assert peer_id.to_bytes()[2:] == stranger.encoded
        assert str(peer_id).startswith("12D3KooW" if kind == "ed25519" else "16Uiu2HA")
    else:
        assert str(peer_id).startswith("Qm")


def test_a_peer_id_equals_its_text_and_nothing_else():
    peer_id = parse_peer_id(SPEC_PEER_ID)
    assert repr(peer_id) == f"PeerId({SPEC_PEER_ID})"
    assert peer_id == SPEC_PEER_ID
    assert peer_id == SPEC_PEER_ID
    assert peer_id in {SPEC_PEER_ID}
    assert SPEC_PEER_ID in {peer_id: 1}
    assert peer_id != peer_id.to_cid()
    assert peer_id != peer_id.to_bytes()
    assert {peer_id: 1}[PeerId(peer_id.to_bytes())] == 1


@pytest.mark.parametrize(
    "text",
    [
        SPEC_PEER_ID,
        f"  {SPEC_PEER_ID}\n",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6",
        "BAFZAAJAIAEJCAHWR5D5OFRFBIS4L5D6UWR57HU5TJODRYPFM6YAQ6DSC2R2PZYT6",
        "k51qzi5uqu5dgy8qsq67hbz73jqkw87l3fgf4a91qb0d9b5173tir7n4vxk1oe",
        "K51QZI5UQU5DGY8QSQ67HBZ73JQKW87L3FGF4A91QB0D9B5173TIR7N4VXK1OE",
        f"f0172{PeerId.from_base58(SPEC_PEER_ID).to_bytes().hex()}",
        f"F0172{PeerId.from_base58(SPEC_PEER_ID).to_bytes().hex().upper()}",
    ],
)
def test_all_forms_of_a_peer_id_are_read(text):
    peer_id = parse_peer_id(text)
    assert parse_peer_id(str(peer_id)) == peer_id
    if not text.startswith("Qm"):
        assert str(peer_id) == SPEC_PEER_ID
        assert peer_id.to_cid() == (
            "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6"
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "12D3Koo",
        SPEC_PEER_ID[:-1],
        SPEC_PEER_ID + "x",
        SPEC_PEER_ID.replace("W", "0"),
        "Qm",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5",
        "1",
        "11",
        "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6",
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        "/ip4/127.0.0.1/tcp/1",
        "localhost:4001",
        "ünïcode",
        "1" * 100_000,
    ],
)
def test_what_is_no_peer_id_is_an_address_error(text):
    with pytest.raises(AddressError, match="not a peer ID"):
        parse_peer_id(text)


@given(st.text(max_size=80) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefmnopqQ", max_size=80))
def test_no_text_raises_anything_but_an_address_error(text):
    try:
        peer_id = parse_peer_id(text)
    except AddressError:
        return
    assert parse_peer_id(str(peer_id)) == peer_id
