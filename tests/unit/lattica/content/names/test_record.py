"""Names: how they are written, signed and asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.content.manifest.cid import Cid
from lattica.content.names.messages import NameQuestion, decode_question, encode_question
from lattica.content.names.record import (
    MAX_NAME_BYTES,
    NameRef,
    NameTarget,
    check_name,
    name_key,
    open_name,
    read_target,
    seal_name,
    target_data,
)
from lattica.dht.records.data import encode_data
from lattica.dht.records.keys import value_key
from lattica.dht.records.signed_value import seal_value
from lattica.errors import RemoteProtocolError, TicketError
from lattica.nat.base.keys.identity import Identity

OWNER, OTHER = Identity.generate(), Identity.generate()
PEER, RELAY = OWNER.peer_id, OTHER.peer_id
CID = Cid.of(b"content")
NOW = 1_800_000_000.0


def seal(name="model", identity=OWNER, expires=NOW + 60, target=None):
    return seal_name(identity, name, target or NameTarget(CID), sequence=7, expires=expires)


@pytest.mark.parametrize("description", [None, Cid.of(b"description")])
def test_a_record_is_read_as_it_was_signed(description):
    record = seal(target=NameTarget(CID, description))
    assert open_name(record.envelope, PEER, "model") == record
    assert record.target == NameTarget(CID, description)


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        (seal("other").envelope, "of another key"),
        (seal(identity=OTHER).envelope, "of another key"),
        (seal().envelope[:-1], "."),
        (b"", "."),
    ],
)
def test_what_is_not_the_owners_word_is_refused(envelope, why):
    with pytest.raises(RemoteProtocolError, match=why):
        open_name(envelope, PEER, "model")


def test_a_name_that_is_withdrawn_leads_nowhere():
    assert read_target(target_data(None)) is None
    key = value_key(name_key(PEER, "model"))
    signed = seal_value(
        OWNER, key, b"", encode_data(target_data(None)), sequence=8, expires=int(NOW + 60) * 1000
    )
    with pytest.raises(RemoteProtocolError, match="leads nowhere"):
        open_name(signed.envelope, PEER, "model")


@pytest.mark.parametrize(
    "value", [None, {}, {"cid": b"x"}, {"cid": bytes(CID), "description": 1}, {"withdrawn": 1}]
)
def test_a_value_that_leads_nowhere_is_refused(value):
    with pytest.raises(RemoteProtocolError):
        read_target(value)


@pytest.mark.parametrize(
    ("text", "name", "addrs"),
    [
        (f"{PEER}/model", "model", []),
        (f"  {PEER}/org/model@v1\n", "org/model@v1", []),
        (f"/p2p/{PEER}/a/b", "a/b", []),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/model", "model", ["/ip4/192.0.2.1/tcp/4001"]),
        (
            f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/org/model",
            "org/model",
            [f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"],
        ),
    ],
)
def test_references(text, name, addrs):
    ref = NameRef.parse(text)
    assert (ref.peer_id, ref.name, [*map(str, ref.addrs)]) == (PEER, name, addrs)
    assert NameRef.parse(str(ref)) == NameRef(PEER, name)


@pytest.mark.parametrize(
    "text",
    ["", "model", f"{PEER}", f"{PEER}/", f"{PEER}//a", "nobody/model", f"/p2p/{PEER}",
     "/ip4/192.0.2.1/tcp/4001/model", f"{PEER}/a\nb"],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(TicketError):
        NameRef.parse(text)


def test_the_length_of_names():
    check_name("é" * (MAX_NAME_BYTES // 2))
    with pytest.raises(TicketError, match="longer"):
        check_name("é" * (MAX_NAME_BYTES // 2) + "x")
    seal("x" * MAX_NAME_BYTES)


@given(
    st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=40),
    st.integers(0, 2**63 - 1),
)
def test_questions(name, sequence):
    question = NameQuestion(name, sequence)
    assert decode_question(encode_question(question)) == question


@given(st.binary(max_size=64))
def test_any_bytes_are_a_question_or_refused(data):
    try:
        question = decode_question(data)
    except RemoteProtocolError:
        return
    assert decode_question(encode_question(question)) == question
