"""Rights that stand in entries which are admitted only by these rights."""

from __future__ import annotations

import pytest

from lattica.crdt.access.capability import Level, decode_capability, issue
from lattica.crdt.access.revocation import Revocation
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.types.payloads import RegisterWrite
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.sync import exchange_all

OWNER, ANNA, BERT = (Identity(bytes([number]) * 32) for number in range(1, 4))
CAPABLE = Genesis("capabilities", (OWNER.public_key.data,), Mode.CAPABILITY)


@pytest.fixture
def default() -> Genesis:
    return CAPABLE


@pytest.mark.parametrize("is_first", [True, False])
def test_rights_that_hold_up_nothing_but_each_other_are_none(make, clock, is_first):
    """Where they were heard of before that by which the first of them was written down was taken
    back, they stood; elsewhere they did not.
    """
    owner, bert = make(OWNER), make(BERT)
    first = decode_capability(owner.grant(ANNA.peer_id), CAPABLE.doc_id, CAPABLE.owners)
    doc_id, now = CAPABLE.doc_id, clock() << 16
    other = issue(OWNER, doc_id, ANNA.peer_id, Level.WRITE, issued=1)
    session = SessionKey.generate()
    certificate = session.certificate(ANNA, doc_id).encode()
    entries = [sign_entry(session, doc_id, 0, doc_id, now, Kind.SESSION, certificate)]
    for kind, payload in (
        (Kind.GRANT, other.encode()),
        (Kind.REGISTER, RegisterWrite("a", 1).encode()),
    ):
        seq, before = len(entries), entries[-1].id
        entries.append(sign_entry(session, doc_id, seq, before, now + seq, kind, payload))
    exchange_all(owner, bert)
    chain = encode_chain(entries, with_prev=True)
    if is_first:
        bert.receive(chain, "peer")
        assert bert.registers["a"] == 1
    last = Revocation(first.right.id, ((session.author, 0, entries[0].id),)).encode()
    owner._resolve(owner._replica.write([(Kind.REVOKE, last)], owner.now_ms))
    exchange_all(owner, bert)
    bert.receive(chain, "peer")
    assert bert.heads()[session.author][0] == 1
    assert "a" not in bert.registers
