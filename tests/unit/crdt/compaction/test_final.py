"""Documents with owners are pruned as far as an owner has called their entries final."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattica.crdt.access.capability import Level
from lattica.crdt.access.finality import decode_finality, encode_finality, in_pieces
from lattica.crdt.access.revocation import MAX_SESSIONS
from lattica.crdt.base.canonical import encode
from lattica.crdt.base.turns import finish
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Limits, Mode
from lattica.crdt.entries.header import Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import RemoteProtocolError, ResourceLimitError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import Make
from tests.support.crdt.sync import exchange, exchange_all

OWNER, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 5))
SECOND = Identity(b"\x09" * 32)
OWNERS = (OWNER.public_key.data, SECOND.public_key.data)
LISTED = Genesis("list", OWNERS, Mode.ALLOW_LIST)
CAPABLE = Genesis("capabilities", OWNERS, Mode.CAPABILITY)
SEALED = Genesis("sealed", OWNERS, Mode.ALLOW_LIST, is_sealed=True)


@pytest.fixture
def default() -> Genesis:
    return LISTED


def sync(*documents: Document) -> None:
    exchange_all(*documents)
    for document in documents[1:]:
        assert document.root == documents[0].root


def count(document: Document) -> int:
    """Entries that are here, with their payloads."""
    return len([*document.entries()])


def finals(document: Document) -> int:
    return sum(each.kind == "final" for each in document.entries())


def written(make: Make, genesis: Genesis = LISTED, times: int = 20) -> list[Document]:
    """The owner's, Anna's and Bert's, who have written all kinds, many of them over others."""
    documents = [make(each, genesis) for each in (OWNER, ANNA, BERT)]
    owner = documents[0]
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(*documents)
    for number in range(times):
        for document in documents:
            document.registers["at"] = number
            document.counter("steps").add(1)
            document.set("all").add(number % 3)
            document.set("all").discard((number + 1) % 3)
            document.claims("jobs").claim(number % 2, 0.01)
        sync(*documents)
    return documents


@pytest.mark.parametrize("genesis", [LISTED, CAPABLE, SEALED])
def test_what_an_owner_calls_final_is_pruned_by_everybody(make, genesis):
    owner, anna, bert = written(make, genesis)
    root, before = owner.root, count(owner)
    assert anna.prune(0.0) == 0  # nobody has called anything final
    assert owner.prune(3600.0) == 0  # nothing is that old
    assert finals(owner) == 0
    gone = owner.prune(0)
    assert gone > before / 2
    assert (owner.root, count(owner), finals(owner)) == (root, before - gone + 1, 1)
    sync(owner, anna, bert)
    assert anna.prune(0) > gone / 2
    assert anna.root == root
    # What comes later is merged as ever.
    for document in (owner, anna, bert):
        document.registers["at"] = "later"
        document.counter("steps").add(1)
    sync(owner, anna, bert)
    assert bert.counter("steps").value == 63
    assert bert.registers["at"] == "later"


def test_who_comes_later_is_given_a_snapshot(make, tmp_path):
    owner, anna, bert = written(make)
    owner.prune(0)
    sync(owner, anna)
    owner.grant(CARL.peer_id)
    parts = owner.snapshot()
    carl = make(CARL, path=tmp_path / "carl.sqlite3")
    carl.receive_snapshot(parts)
    assert carl.root == owner.root
    assert carl.heads() == owner.heads()
    assert count(carl) == count(owner)
    # It is all there after a restart, and nothing is wrong with it.
    carl.close()
    report = check_document(tmp_path / "carl.sqlite3")
    assert (report.problems, report.root) == ([], owner.root)
    assert report.pruned > 50
    carl = make(CARL, path=tmp_path / "carl.sqlite3")
    carl.registers["of carl"] = 1
    sync(carl, owner, anna)
    # What one of them has left out another one brings back.
    whole = count(bert)
    exchange(bert, owner)
    bert.receive_snapshot(owner.snapshot())
    assert count(bert) >= whole
    owner.receive_snapshot(bert.snapshot(), [BERT.peer_id])
    assert count(owner) == count(bert)
    assert owner.root == bert.root


def test_what_is_final_counts_whatever_right_is_taken_back_later(make, tmp_path):
    second, anna, bert = (make(each) for each in (SECOND, ANNA, BERT))
    owner = make(OWNER, path=tmp_path / "owner.sqlite3")
    owner.grant(ANNA.peer_id)
    exchange_all(owner, second, anna, bert)
    for number in range(20):
        anna.registers["a"] = number
    exchange_all(owner, anna, bert)  # the second owner has not heard of any of them
    assert owner.prune(0) > 10
    owner.close()
    owner = make(OWNER, path=tmp_path / "owner.sqlite3")
    assert second.revoke(ANNA.peer_id) == 1
    assert "a" not in second.registers
    exchange_all(owner, second, anna, bert)
    second.receive_snapshot(owner.snapshot())
    sync(owner, second, anna, bert)
    assert second.registers["a"] == 19
    # In whatever order it is heard.
    everybody = [OWNER.peer_id, SECOND.peer_id, BERT.peer_id]
    for documents in ((owner, second), (second, owner), (bert, second), (second, bert)):
        fresh = make(CARL)
        for document in documents:
            fresh.receive_snapshot(document.snapshot(), everybody)
        assert fresh.root == owner.root


def test_what_is_not_final_is_taken_back_as_ever_and_what_it_had_replaced_is_there(make):
    owner, anna, bert = (make(each) for each in (OWNER, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    sync(owner, anna, bert)
    bert.registers["a"] = "good"
    sync(owner, anna, bert)
    owner.prune(0)
    sync(owner, anna, bert)
    anna.registers["a"] = "bad"
    exchange(anna, bert)
    assert bert.registers["a"] == "bad"
    assert bert.prune(0) == 0  # by what may be taken back
    owner.revoke(ANNA.peer_id)
    sync(owner, anna, bert)
    assert bert.registers["a"] == "good"


def call_final(owner: Document, *of: Document) -> None:
    """By hand, of the sessions of some."""
    last = [(each.author, len(ids) - 1, ids[-1]) for each in of if (ids := ids_of(owner, each))]
    for piece in in_pieces(last, 2**16):
        outcome = owner._replica.write([(Kind.FINAL, encode_finality(piece))], owner.now_ms)
        owner._resolve(outcome)


def ids_of(document: Document, of: Document) -> list[bytes]:
    return document._replica.log.feeds[of.author].ids


@pytest.mark.parametrize("genesis", [LISTED, CAPABLE])
def test_a_right_that_is_not_final_has_nothing_go(make, genesis):
    """Who has given it may have it withdrawn by what comes, and what was written by it with it."""
    owner, manager, anna, bert = (make(each, genesis) for each in (OWNER, CARL, ANNA, BERT))
    owner.grant(CARL.peer_id, Level.MANAGE, depth=1)
    owner.grant(BERT.peer_id)
    exchange_all(owner, manager, anna, bert)
    bert.registers["a"] = "good"
    bert.registers["last"] = 1  # the last one stays
    exchange_all(owner, manager, anna, bert)
    manager.grant(ANNA.peer_id)
    exchange_all(owner, manager, anna, bert)
    anna.registers["a"] = "of anna"
    anna.registers["a"] = "of anna again"
    exchange_all(owner, manager, anna, bert)
    call_final(owner, anna, bert)
    exchange_all(owner, manager, anna, bert)
    assert bert.prune(0) == 0
    call_final(owner, owner, manager)
    exchange_all(owner, manager, anna, bert)
    assert bert.prune(0) == 2
    assert bert.registers["a"] == "of anna again"


def test_writes_outside_a_prefix_stay_as_they_may_take_effect_later(make):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id, prefix="mine/")
    owner.registers["other"] = 1
    sync(owner, anna)
    for number in range(5):
        anna.registers["mine/a"] = number
    write = RegisterWrite("other", 2, anna.state.replaced_at("other"))
    # Past the check that an honest store makes.
    anna._resolve(anna._replica.write([(Kind.REGISTER, write.encode())], anna.now_ms))
    anna.registers["mine/a"] = 5
    sync(owner, anna)
    assert owner.registers["other"] == 1
    assert owner.prune(0) == 5
    sync(owner, anna)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    assert owner.registers["other"] == anna.registers["other"] == 2


def test_a_snapshot_without_entries_that_nobody_called_final_is_refused(make):
    _, anna, bert = written(make)
    bert._replica.prune({anna.author: [2]})
    carl = make(CARL)
    with pytest.raises(RemoteProtocolError, match="no owner has called final"):
        carl.receive_snapshot(bert.snapshot(), [BERT.peer_id])
    assert not carl.heads()


def test_what_was_pruned_of_who_contradicts_himself_before_that_is_passed_on(make):
    """What the owner has named does not stand in the chain any more, nor is it final."""
    owner, anna, bert = written(make, times=3)
    anna.registers["b"] = 1
    sync(owner, anna)
    length, newest = owner.heads()[anna.author]
    anna.registers["a"] = "later"
    sync(owner, anna)
    assert owner.prune(0) > 5
    other = sign_entry(
        anna._replica.signing_session()[0],
        LISTED.doc_id,
        length,
        newest,
        anna.now_ms << 16,
        Kind.REGISTER,
        RegisterWrite("a", "another").encode(),
    )
    owner.receive(encode_chain([other], with_prev=True), "peer")
    assert owner.heads()[anna.author] == (length, newest)
    carl = make(CARL)
    carl.receive_snapshot(owner.snapshot())
    assert (carl.root, carl.heads()) == (owner.root, owner.heads())
    exchange_all(owner, bert)
    bert.receive_snapshot(owner.snapshot())
    assert (bert.root, bert.heads()) == (owner.root, owner.heads())


def test_only_owners_say_what_is_final(make):
    owner, anna, bert = written(make, times=3)
    last = ((anna.author, len(anna.heads()[anna.author]) - 1, anna.heads()[anna.author][1]),)
    anna._resolve(anna._replica.write([(Kind.FINAL, encode_finality(last))], anna.now_ms))
    sync(owner, anna, bert)
    assert bert.prune(0) == 0


def test_what_is_withdrawn_while_it_is_looked_at_is_not_called_final(make):
    owner, second, anna, bert = (make(each) for each in (OWNER, SECOND, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, second, anna, bert)
    bert.registers["a"] = "good"
    exchange_all(owner, second, anna, bert)
    second.revoke(ANNA.peer_id)
    anna.registers["a"] = "of anna"
    exchange(owner, anna)
    pruning = owner.pruning(0)
    for _ in owner.heads():
        next(pruning)
    assert finals(owner) == 0
    exchange(owner, second)
    assert owner.registers["a"] == "good"
    finish(pruning)
    sync(owner, second, bert)
    assert finals(owner) == 1
    assert bert.registers["a"] == "good"


@pytest.mark.parametrize("is_dated_back", [True, False])
def test_what_has_come_later_than_the_grace_is_not_called_final(make, clock, is_dated_back):
    """A right may have been taken back by somebody who is not heard of yet: that is what the grace
    is for, and when something was written only its author knows.
    """
    day, behind = 86_400_000, 0
    owner, second, bert = (make(each) for each in (OWNER, SECOND, BERT))
    anna = make(ANNA, wall=lambda: clock() - behind)
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, second, anna, bert)
    anna.registers["mine"] = 1
    bert.registers["a"] = "good"
    exchange_all(owner, second, anna, bert)
    if is_dated_back:
        clock.ms += 10 * day
        behind = 9 * day
    anna.registers["a"] = "of anna"
    anna.registers["mine"] = 2
    if not is_dated_back:
        clock.ms += 10 * day
    second.revoke(ANNA.peer_id)
    exchange(owner, anna)
    owner.prune()
    sync(owner, second, bert)
    assert finals(owner) == 1
    assert bert.registers["a"] == "good"


def test_pruning_where_nothing_was_written_says_nothing(make):
    owner, second, anna = make(OWNER), make(SECOND), make(ANNA)
    owner.grant(ANNA.peer_id)
    sync(owner, second, anna)
    anna.registers["a"] = 1
    said = []
    for _ in range(5):
        sync(owner, second, anna)
        owner.prune(0)
        second.prune(0)
        said.append(finals(owner))
    assert said[2:] == said[2:3] * 3
    anna.registers["a"] = 2
    sync(owner, anna)
    owner.prune(0)
    assert finals(owner) == said[-1] + 1


def fill(document: Document) -> None:
    while True:
        document.registers["a"] = "much" * 20


def test_pruning_where_entries_are_small_and_where_the_quota_is_used_up(make, caplog):
    genesis = Genesis("small", OWNERS[:1], Mode.ALLOW_LIST, limits=Limits(300, 2500))
    owner = make(OWNER, genesis)
    for number in range(24):
        owner.registers["a"] = number
        if number % 3 == 2:
            owner._replica._begin_session()
    assert owner.prune(0)
    assert finals(owner) == 3
    with pytest.raises(ResourceLimitError):
        fill(owner)
    assert owner.prune(0) == 0
    assert "nothing more can be called final: a session may write" in caplog.text


def test_payloads():
    last = tuple((bytes([number, 7]) + bytes(30), number, bytes(32)) for number in range(200))
    assert decode_finality(encode_finality(last)) == last
    many = [(number.to_bytes(32, "big"), 1, bytes(32)) for number in range(MAX_SESSIONS + 1)]
    assert [len(each) for each in in_pieces(reversed(many), 2**16)] == [MAX_SESSIONS, 1]
    for room in (0, 100, 200, 512):
        for piece in in_pieces(many[:20], room):
            assert len(piece) == 1 or len(encode_finality(piece)) <= room
    for wrong in (
        b"",
        b"\x90",
        b"\xc0",
        encode_finality(last[::-1]),
        encode_finality(last) + b"\0",
    ):
        with pytest.raises(RemoteProtocolError):
            decode_finality(wrong)


def test_each_time_that_something_does_not_count_any_more_is_told_from_the_others(make: Make):
    """Whoever was asked before is asked again."""
    owner, second, anna, bert = (make(each) for each in (OWNER, SECOND, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    owner.registers["x"] = 1
    assert owner.losses == 0
    owner.registers["x"] = 2
    sync(owner, second, anna, bert)
    assert owner.prune(0) == 1
    sync(owner, second, anna, bert)
    seen = [owner.losses]
    for other in (anna, bert):
        second.revoke(other._replica.identity.peer_id)
        other.registers["a"] = 1
        exchange(owner, other)
        exchange_all(owner, second)
        seen.append(owner.losses)
        owner.grant(other._replica.identity.peer_id)
        exchange_all(owner, second, other)
    assert 0 < seen[0] < seen[1] < seen[2]
    assert second.losses == 0


def test_what_was_pruned_of_who_gets_his_right_again_counts_again(make: Make, tmp_path: Path):
    """By what was left of it: nobody has the entries any more, and what follows on them counts."""
    path = tmp_path / "bert"
    owner, second, anna, bert = make(OWNER), make(SECOND), make(ANNA), make(BERT, path=path)
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    second.registers["second"] = 1
    sync(owner, second, anna, bert)
    anna.registers["first"] = 0
    sync(owner, second, anna, bert)
    for number in range(5):
        anna.registers["a"] = number
    anna.registers["live"] = "anna's"
    sync(second, anna, bert)
    session, log = second._replica._current_session(), second._replica.log
    length, newest = second.heads()[session.author]
    hlc = log.feeds[session.author].hlc + 1
    other = sign_entry(session, LISTED.doc_id, length, newest, hlc, Kind.REGISTER, encode(["x", 1]))
    for document in (second, anna, bert):
        assert document.prune(0) == 4
        sync(second, anna, bert)
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, anna, bert)
    owner.receive_snapshot(bert.snapshot(), [BERT.peer_id])
    sync(owner, anna, bert)
    assert owner.registers["live"] == "anna's"
    bert.receive(encode_chain([other], with_prev=True), "peer")
    sync(owner, anna, bert)
    assert (bert.registers.get("first"), bert.registers.get("live")) == (0, None)
    bert.close()
    bert = make(BERT, path=path)
    owner.grant(ANNA.peer_id)
    sync(owner, anna, bert)
    assert owner.heads() == anna.heads() == bert.heads()
    assert (bert.registers.get("a"), bert.registers.get("live")) == (4, "anna's")
    root = bert.root
    bert.close()
    assert not check_document(path).problem_count
    bert, fresh = make(BERT, path=path), make(CARL)
    fresh.receive_snapshot(bert.snapshot(), [BERT.peer_id])
    assert bert.root == fresh.root == root
    owner.revoke(ANNA.peer_id)
    sync(owner, anna, bert)
    assert (bert.registers.get("a"), bert.registers.get("live")) == (4, "anna's")
