"""Snapshots of documents with owners that are made up, by who may read or may not even that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lattica.crdt.access.finality import encode_finality
from lattica.crdt.base.turns import finish
from lattica.crdt.compaction.snapshot import body_digest, body_parts, first_part
from lattica.crdt.document import Document, snapshots
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.remnant import remnant_of
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.proofs.statement import Statement, heads_fingerprint, sign_statement
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC
from tests.support.crdt.documents import making
from tests.support.crdt.sync import exchange, exchange_all

OWNER, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 5))
LISTED = Genesis("list", (OWNER.public_key.data,), Mode.ALLOW_LIST)


@pytest.fixture
def default() -> Genesis:
    return LISTED


def chains_of(document: Document) -> dict[bytes, FeedPrefix]:
    """What an honest snapshot has, by author."""
    history = document._history
    return {
        author: finish(history._prefix(author, length))
        for author, (length, _) in document.heads().items()
    }


def signed(
    signer: Identity,
    prefixes: Sequence[FeedPrefix],
    root: bytes = bytes(32),
    genesis: Genesis = LISTED,
    withdrawn: Sequence[Entry] = (),
) -> tuple[bytes, ...]:
    """A snapshot of these chains."""
    body, session = [*body_parts(prefixes, withdrawn)], SessionKey.generate()
    heads = [(each.author, len(each.ids), each.ids[-1]) for each in prefixes]
    count = sum(len(each.ids) for each in prefixes)
    statement = Statement(genesis.doc_id, heads_fingerprint(heads), root, count, 1)
    certificate = session.certificate(signer, genesis.doc_id)
    return first_part([sign_statement(statement, session, certificate, body_digest(body))]), *body


def test_that_a_right_was_taken_back_cannot_be_left_out(make):
    owner, anna, liar, fresh = (make(each) for each in (OWNER, ANNA, BERT, CARL))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, anna, liar)
    owner.revoke(ANNA.peer_id)
    anna.registers["a"] = "later"
    owner.prune(0)  # what is final is all that was written up to here
    exchange(owner, liar)
    chains = chains_of(liar)
    chains |= {anna.author: chains_of(anna)[anna.author]}
    own = chains[owner.author]
    (revoked,) = (each for each in own.entries if each.header.kind == Kind.REVOKE)
    own.entries.remove(revoked)
    own.remnants[revoked.header.seq] = remnant_of(revoked)
    with pytest.raises(RemoteProtocolError, match="of kind 9, which stays"):
        fresh.receive_snapshot(signed(BERT, [*chains.values()]), [BERT.peer_id])
    assert not fresh.heads()


def test_what_no_owner_has_called_final_is_refused_before_any_of_it_is_admitted(make, monkeypatch):
    owner, anna, liar = (make(each) for each in (OWNER, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, anna, liar)
    for number in range(4):
        anna.registers["a"] = number
    # What others call final is not.
    last = anna.author, 3, anna.heads()[anna.author][1]
    liar._resolve(liar._replica.write([(Kind.FINAL, encode_finality((last,)))], liar.now_ms))
    exchange(anna, liar)
    chains = chains_of(liar)
    chain = chains[anna.author]
    for entry in chain.entries[1:3]:
        chain.entries.remove(entry)
        chain.remnants[entry.header.seq] = remnant_of(entry)
    parts = signed(BERT, [*chains.values()])

    def fail(*args: object) -> None:
        raise AssertionError("it is admitted, and then refused")

    monkeypatch.setattr(snapshots, "replay", fail)
    with pytest.raises(RemoteProtocolError, match="no owner has called final"):
        owner.receive_snapshot(parts, [BERT.peer_id])


@pytest.mark.parametrize("genesis", [LISTED, DOC])
def test_what_brings_nothing_leaves_all_as_it_is(make, genesis):
    """Anybody may make one of nothing at all, and send it again and again."""
    owner, anna = make(OWNER, genesis), make(ANNA, genesis)
    owner.registers["b"] = 1
    if genesis is LISTED:
        owner.grant(ANNA.peer_id)
    exchange_all(owner, anna)
    for number in range(3):
        anna.registers["a"] = number
    chain = list(anna._replica.database.entries(anna.author, 0, 4))
    owner.receive(encode_chain(chain[3:], with_prev=True), "peer")  # waits for those before it
    root, log, part = owner.root, owner._replica.log, chains_of(owner)[owner.author].up_to(2)
    assert root != anna.root
    part.end_vouched()
    for given in ([], [part], [*chains_of(owner).values()]):
        parts = signed(CARL, given, owner.root, genesis)
        owner.receive_snapshot(parts, [CARL.peer_id])
        assert owner._replica.log is log
        assert not owner._resolved.is_stale
    owner.receive(encode_chain(chain[:3], with_prev=True), "peer")
    assert owner.root == anna.root


def test_what_waits_is_there_when_a_snapshot_was_taken(make):
    owner, anna, bert = (make(each) for each in (OWNER, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, anna, bert)
    for number in range(3):
        anna.registers["a"] = number
    chain = list(anna._replica.database.entries(anna.author, 0, 4))
    bert.receive(encode_chain(chain[3:], with_prev=True), "peer")
    owner.registers["b"] = 1
    bert.receive_snapshot(owner.snapshot())
    bert.receive(encode_chain(chain[:3], with_prev=True), "peer")
    assert dict(bert.registers.items()) == {"a": 2, "b": 1}


def test_what_is_whole_again_and_erased_has_no_payload(make):
    """Of what was pruned here, and another one brings who has not heard of the erasure; and the
    other way round.
    """
    owner, anna, bert, carl = (make(each) for each in (OWNER, ANNA, BERT, CARL))
    for each in (ANNA, BERT, CARL):
        owner.grant(each.peer_id)
    exchange_all(owner, anna)
    for value in ("secret", "not", "not that either"):
        anna.registers["a"] = value
    exchange_all(owner, anna, bert, carl)
    last = tuple(sorted((by, length - 1, at) for by, (length, at) in owner.heads().items()))
    owner._resolve(owner._replica.write([(Kind.FINAL, encode_finality(last))], owner.now_ms))
    exchange_all(owner, anna, bert, carl)
    assert bert.prune(0) == carl.prune(0) == 2
    (secret, *_) = (each for each in anna.entries() if each.name == "a")
    anna.erase(secret)
    exchange(anna, bert)
    bert.receive_snapshot(owner.snapshot())
    carl.receive_snapshot(anna.snapshot(), [ANNA.peer_id])
    for document in (bert, carl):
        replica = document._replica
        payloads = [each.payload for each in replica.database.entries(anna.author, 1, 3)]
        assert (payloads[0] is None, payloads[1] is None) == (True, False)
        assert not replica.log.feeds[anna.author].lacking
        assert document.root == owner.root
        document.close()
        report = check_document(replica.database.path)
        assert (report.problems, report.erased, report.pruned) == ([], 1, 0)


@pytest.mark.parametrize("genesis", [LISTED, DOC])
def test_of_a_snapshot_from_the_future_is_taken_what_is_of_now(tmp_path, clock, genesis):
    """The maker's clock is ahead, for as long as he writes; he is not to blame."""
    with (
        making(tmp_path / "ahead", lambda: clock() + 90_000, genesis) as ahead,
        making(tmp_path / "right", clock, genesis) as make,
    ):
        owner, carl = ahead(OWNER), make(CARL)
        for number in range(20):
            owner.registers["a"] = number
        clock.ms += 600_000
        assert owner.prune(0) >= 18
        for _ in range(3):
            clock.ms += 20_000
            owner.registers["b"] = clock.ms
        carl.receive_snapshot(owner.snapshot(), [OWNER.peer_id])
        assert carl.registers["a"] == 19
        assert carl.registers["b"] not in (None, owner.registers["b"])
        heads = carl.heads()
        carl.receive_snapshot(owner.snapshot(), [OWNER.peer_id])  # and brings no more of it yet
        assert carl.heads() == heads
        false = signed(OWNER, [*chains_of(owner).values()], bytes(32), genesis)
        with pytest.raises(RemoteProtocolError, match="another state than it says"):
            carl.receive_snapshot(false, [OWNER.peer_id])
        clock.ms += 90_000
        exchange(carl, owner)
        assert (carl.root, carl.heads()) == (owner.root, owner.heads())
        carl.close()
        assert not check_document(carl._replica.database.path).problems


def test_what_is_final_cannot_be_given_as_withdrawn(make):
    owner, anna, fresh = (make(each) for each in (OWNER, ANNA, CARL))
    owner.grant(ANNA.peer_id)
    exchange_all(owner, anna)
    anna.registers["a"] = 1
    exchange_all(owner, anna)
    owner.prune(0)  # calls it final
    chains = chains_of(owner)
    withdrawn = chains[anna.author].entries[1:]
    chains[anna.author] = chains[anna.author].up_to(1)
    parts = signed(OWNER, [*chains.values()], withdrawn=withdrawn)
    with pytest.raises(RemoteProtocolError, match="right to write"):
        fresh.receive_snapshot(parts)
