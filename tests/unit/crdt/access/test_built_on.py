"""What somebody wrote in good faith on something that was taken back: it stands, and all agree on
it, whether they had heard of what it stands on or not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.sync import session
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import Make
from tests.support.crdt.sync import exchange, exchange_all

OWNER, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 5))
LISTED = Genesis("list", (OWNER.public_key.data,), Mode.ALLOW_LIST)
CAPABLE = Genesis("capabilities", (OWNER.public_key.data,), Mode.CAPABILITY)


@pytest.fixture
def default() -> Genesis:
    return LISTED


def built(make: Make, genesis: Genesis) -> list[Document]:
    """The owner, Anna and Bert: what Anna wrote last only Bert has heard, and written on, when her
    right is taken back. All have heard that, and what is left.
    """
    owner, anna, bert = make(OWNER, genesis), make(ANNA, genesis), make(BERT, genesis)
    for each in (anna, bert):
        right = owner.grant((ANNA if each is anna else BERT).peer_id)
        exchange(owner, each)
        each.present(right)
    anna.text("t").insert(0, "one ")
    exchange_all(owner, anna, bert)
    anna.text("t").insert(4, "two ")
    anna.text("t").insert(8, "three ")
    exchange(anna, bert)
    bert.text("t").insert(14, "four")
    owner.revoke(ANNA.peer_id)
    return [owner, anna, bert]


def agree(*documents: Document) -> None:
    for document in documents[1:]:
        assert document.root == documents[0].root
        assert document.head_index.heads(b"", None) == documents[0].head_index.heads(b"", None)


@pytest.mark.parametrize("genesis", [LISTED, CAPABLE])
def test_it_stands_wherever_it_is_heard(make, tmp_path, genesis):
    owner, anna, bert = built(make, genesis)
    exchange_all(owner, bert)
    assert str(owner.text("t")) == "one four"
    bert.text("t").insert(8, "!")
    path = tmp_path / "carl.sqlite3"
    late, by_snapshot = make(CARL, genesis, path), make(CARL, genesis)
    exchange_all(bert, late)
    exchange_all(owner, anna, late)
    by_snapshot.receive_snapshot(owner.snapshot())
    agree(owner, anna, bert, late, by_snapshot)
    assert str(by_snapshot.text("t")) == "one four!"
    late.close()
    agree(owner, again := make(CARL, genesis, path))
    again.close()
    assert not check_document(path).problems


@pytest.mark.parametrize("genesis", [LISTED, CAPABLE])
def test_what_it_stands_on_counts_again_by_another_right(make, genesis):
    owner, anna, bert = built(make, genesis)
    exchange_all(owner, bert)
    late = make(CARL, genesis)
    exchange_all(owner, late)
    owner.grant(ANNA.peer_id)
    exchange_all(owner, late)  # neither has heard Anna
    exchange_all(owner, anna, bert, late)
    agree(owner, anna, bert, late)
    assert str(late.text("t")) == "one two three four"


def test_it_is_written_by_a_right_that_what_it_stands_on_does_not_have_any_more(make):
    """The right that Bert wrote by comes from Anna, and Carl has one of the owner."""
    owner, bert, carl = make(OWNER), make(BERT), make(CARL)
    anna = make(ANNA)
    owner.grant(ANNA.peer_id, depth=1, level=4)
    owner.grant(CARL.peer_id)
    exchange(owner, anna)
    anna.grant(BERT.peer_id)
    exchange_all(owner, anna, bert, carl)
    bert.text("t").insert(0, "one")
    exchange(bert, carl)
    carl.text("t").insert(3, "two")
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, carl)
    late = make(Identity(bytes([5]) * 32))
    exchange_all(late, carl)
    exchange_all(owner, anna, bert, carl, late)
    agree(owner, anna, bert, carl, late)
    assert str(late.text("t")) == "two"


def test_what_it_stands_on_was_not_signed_by_itself(make):
    """Whoever is about to lose his right leaves out a signature, so that nobody could be shown what
    others write on.
    """
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id)
    owner.grant(BERT.peer_id)
    exchange_all(owner, anna, bert)
    anna.text("t").insert(0, "one ")
    anna.text("t").insert(4, "two ")
    anna.registers["a"] = 1
    (chain,) = anna.chains_of(anna.author, 0)
    entries = decode_chain(chain, LISTED.doc_id, anna.id_at)
    spoiled = [replace(each, signature=bytes(64)) for each in entries[1:-1]]
    chain = encode_chain([entries[0], *spoiled, entries[-1]], with_prev=True)
    bert.receive(chain, "peer")
    bert.text("t").insert(8, "three")
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, bert)
    assert str(owner.text("t")) == "three"
    late = make(CARL)
    late.receive_snapshot(owner.snapshot())
    agree(owner, bert, late)


def test_what_nobody_builds_on_is_not_kept(make):
    owner, anna, bert = built(make, LISTED)
    for number in range(5):
        anna.registers["a"] = number
    for chain in anna.chains_of(anna.author, 0):
        owner.receive(chain, "peer")
    exchange_all(owner, bert)
    assert len([*owner._replica.database.withdrawn_entries()]) == 2


def test_more_than_goes_into_one_chain(make, monkeypatch):
    """What is wanted is at the end of it; and what is before it is sent again, which is of use."""
    monkeypatch.setattr(session, "MAX_USELESS_BYTES", 1_500_000)
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id)
    owner.grant(BERT.peer_id)
    exchange_all(owner, anna, bert)
    for number in range(60):
        anna.registers["large"] = bytes([number]) * 65_000
    anna.text("t").insert(0, "one ")
    exchange(anna, bert)
    bert.text("t").insert(4, "two")
    owner.revoke(ANNA.peer_id)
    for chain in owner.chains_of(owner.author, 0):
        bert.receive(chain, "peer")
    exchange(bert, owner)
    agree(owner, bert)
    assert str(owner.text("t")) == "two"
