"""Entries, chains and genesis that are wrong in one place each."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.entries.chain import decode_chain, encode_chain, verify_chain
from lattica.crdt.entries.fork import decode_fork, find_fork
from lattica.crdt.entries.genesis import Genesis, Limits, Mode, Recovery, decode_genesis
from lattica.crdt.entries.header import Entry, Kind, check_entry, decode_header
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.errors import LocalProtocolError, RemoteProtocolError
from tests.support.crdt.chains import DOC, Writer


def nothing_known(author: bytes, seq: int) -> None:
    return None


def test_a_chain_needs_one_signature_and_each_entry_has_its_own():
    chain = Writer(b"a").chain(5)
    verify_chain(chain)
    assert all(entry.is_signed() for entry in chain)
    spoiled = [replace(entry, signature=bytes(64)) for entry in chain[:-1]]
    verify_chain([*spoiled, chain[-1]])
    with pytest.raises(RemoteProtocolError, match="not signed"):
        verify_chain([*chain[:-1], replace(chain[-1], signature=bytes(64))])


def test_a_chain_with_an_entry_left_out_or_exchanged_is_refused():
    chain = Writer(b"a").chain(5)
    with pytest.raises(RemoteProtocolError, match="link"):
        verify_chain([*chain[:2], *chain[3:]])
    stranger = Writer(b"b").chain(5)
    with pytest.raises(RemoteProtocolError, match="link"):
        verify_chain([*chain[:3], *stranger[3:]])
    with pytest.raises(RemoteProtocolError, match="not signed"):
        verify_chain([])


def test_time_goes_on_in_a_chain():
    writer = Writer(b"a")
    chain = writer.chain(2)
    late = sign_entry(
        writer.session, DOC.doc_id, 2, chain[-1].id, chain[-1].header.hlc, Kind.REGISTER, b"\xc0"
    )
    with pytest.raises(RemoteProtocolError, match="time"):
        verify_chain([*chain, late])


def test_a_payload_that_is_another_one_is_refused():
    entry = Writer(b"a").chain(2)[1]
    check_entry(replace(entry, payload=None))
    with pytest.raises(RemoteProtocolError, match="payload"):
        check_entry(replace(entry, payload=b"\xc3"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": 0},
        {"kind": int(Kind.SESSION)},
        {"kind": 256},
        {"seq": 2**32},
        {"hlc": -1},
        {"prev_id": bytes(31)},
        {"author": bytes(33)},
        {"payload_size": -1},
        {"deps": (bytes(32), bytes(32))},
        {"deps": (b"b" * 32, b"a" * 32)},
        {"deps": (b"short",)},
        {"deps": tuple(bytes([n]) * 32 for n in range(17))},
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(wrong):
    header = replace(Writer(b"a").chain(2)[1].header, **wrong)
    with pytest.raises(RemoteProtocolError):
        decode_header(header.encoded)


def test_truth_is_no_number():
    header = Writer(b"a").chain(2)[1].header
    fields: list[Plain] = [1, header.doc_id, header.author, True, header.prev_id, []]
    data = encode([*fields, header.hlc, 1, header.payload_hash, header.payload_size])
    with pytest.raises(RemoteProtocolError):
        decode_header(data)
    data = encode([1, "name", [], 0, [], [True, 1], None, b""])
    with pytest.raises(RemoteProtocolError):
        decode_genesis(data, replaced_id(data))
    chain = Writer(b"a").chain(2)[1:]
    item: Plain = [True, 1, b"\xc0", chain[0].signature]
    with pytest.raises(RemoteProtocolError, match="truth"):
        decode_chain(encode([b"a" * 32, 1, bytes(32), [item]]), DOC.doc_id, nothing_known)


def replaced_id(data: bytes) -> bytes:
    return hashlib.sha256(b"lattica/crdt/doc/v1\0" + data).digest()


def test_a_chain_that_continues_what_is_not_here_is_refused():
    chain = Writer(b"a").chain(3)
    data = encode_chain(chain[1:], with_prev=False)
    assert decode_chain(data, DOC.doc_id, lambda author, seq: chain[seq].id) == chain[1:]
    with pytest.raises(RemoteProtocolError, match="not here"):
        decode_chain(data, DOC.doc_id, nothing_known)
    with pytest.raises(RemoteProtocolError, match="not signed"):
        decode_chain(data, DOC.doc_id, lambda author, seq: bytes(32))
    with pytest.raises(RemoteProtocolError):
        decode_chain(encode_chain(chain, with_prev=True), bytes(32), nothing_known)


@pytest.mark.parametrize("seq", [2**32, 2**64 - 1, -1])
def test_a_chain_that_begins_beyond_all_numbers_is_refused(seq):
    data = encode([b"a" * 32, seq, bytes(32), [[1, 1, b"\xc0", bytes(64)]] * 3])
    with pytest.raises(RemoteProtocolError):
        decode_chain(data, DOC.doc_id, nothing_known)


def test_an_entry_takes_at_most_120_bytes_of_overhead_on_the_wire():
    chain = Writer(b"a").chain(4001)
    data = encode_chain(chain[4000:], with_prev=False)
    assert len(data) - len(chain[4000].payload or b"") <= 120
    data = encode_chain(chain[1:], with_prev=True)
    payloads = sum(len(entry.payload or b"") for entry in chain[1:])
    assert len(data) - payloads <= 90 * 4000


def test_a_fork_is_proved_by_either_contradiction_and_by_nothing_else():
    chain, other = Writer(b"a").chain(4), Writer(b"a").chain(4, value="other")
    assert chain[0].id == other[0].id
    same = find_fork(chain[1], other[1])
    link = find_fork(chain[1], other[2])
    assert same is not None
    assert link is not None
    assert (same.seq, link.seq) == (1, 1)
    for proof in (same, link):
        assert decode_fork(proof.encode(), DOC.doc_id) == proof
        with pytest.raises(RemoteProtocolError, match="another document"):
            decode_fork(proof.encode(), bytes(32))
    assert find_fork(chain[1], chain[2]) is None
    assert find_fork(chain[1], other[3]) is None
    assert find_fork(chain[1], chain[1]) is None
    assert find_fork(chain[1], replace(other[1], signature=bytes(64))) is None
    assert find_fork(chain[1], Writer(b"b").chain(2)[1]) is None
    swapped = encode([[each.header.encoded, each.signature] for each in (same.second, same.first)])
    with pytest.raises(RemoteProtocolError, match="prove no fork"):
        decode_fork(swapped, DOC.doc_id)


def test_signing_the_same_again_is_no_fork():
    one = Writer(b"a").chain(2)[1]
    again = Entry(one.header, one.signature, None)
    assert find_fork(one, again) is None


KEY = SessionKey(bytes(range(32))).author


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 257},
        {"name": "\ud800"},
        {"mode": Mode.CAPABILITY},
        {"owners": (KEY, KEY)},
        {"owners": ((1).to_bytes(32, "little"),)},
        {"kinds": (Kind.SET, Kind.REGISTER)},
        {"limits": Limits(entry_bytes=0)},
        {"limits": Limits(entry_bytes=64 * 1024 + 1)},
        {"limits": Limits(author_bytes=0)},
        {"recovery": Recovery(2, (KEY,))},
        {"recovery": Recovery(0, (KEY,))},
        {"salt": bytes(33)},
    ],
)
def test_a_genesis_that_breaks_a_rule_is_not_made(wrong):
    with pytest.raises(LocalProtocolError):
        Genesis(**{"name": "name", **wrong})


def test_two_documents_of_one_name_are_two_by_their_salt():
    assert Genesis("a").doc_id == Genesis("a").doc_id
    assert Genesis("a").doc_id != Genesis("a", salt=b"1").doc_id
