"""Snapshots of documents with rights: what they come to is what the log comes to."""

from __future__ import annotations

import contextlib
import random

import pytest

from lattica.crdt.access.capability import Level
from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.fork import find_fork
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.sync import exchange, exchange_all

OWNER, SECOND, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 6))
OWNERS = tuple(sorted((OWNER.public_key.data, SECOND.public_key.data)))
LISTED = Genesis("list", OWNERS, Mode.ALLOW_LIST)
CAPABLE = Genesis("capabilities", OWNERS, Mode.CAPABILITY)
MODES = pytest.mark.parametrize("genesis", [LISTED, CAPABLE])


def same(one: Document, other: Document) -> None:
    assert dict(one.registers.items()) == dict(other.registers.items())
    assert one.root == other.root
    assert one.heads() == other.heads()


def write_anywhere(document: Document, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a program does that does not look at its rights first."""
    with monkeypatch.context() as patch:
        patch.setattr(document._rights, "check_names", lambda writes: None)
        document.write(RegisterWrite(name, "x", ()))


@MODES
def test_what_was_written_outside_a_prefix_has_no_effect_in_a_snapshot_either(
    make, monkeypatch, genesis
):
    owner, anna, fresh = (make(each, genesis) for each in (OWNER, ANNA, CARL))
    owner.grant(ANNA.peer_id, prefix="a/")
    exchange_all(owner, anna)
    anna.registers["a/in"] = 1
    write_anywhere(anna, monkeypatch, "b/out")
    exchange_all(owner, anna)
    assert dict(owner.registers.items()) == {"a/in": 1}
    # And so says the check of a file.
    path, root = owner._replica.database.path, owner.root
    owner.close()
    assert check_document(path).root == root
    owner = make(OWNER, genesis, path)
    fresh.receive_snapshot(owner.snapshot())
    same(fresh, owner)
    fresh.receive_snapshot(owner.snapshot())
    same(fresh, owner)


@MODES
def test_what_was_written_before_a_right_was_lost_is_in_it_and_what_came_after_is_not(
    make, genesis, tmp_path
):
    path = tmp_path / "fresh"
    owner, anna, bert, fresh = (
        make(each, genesis, path if each is CARL else None) for each in (OWNER, ANNA, BERT, CARL)
    )
    owner.grant(ANNA.peer_id)
    exchange_all(owner, anna, bert)
    anna.registers["before"] = 1
    exchange_all(owner, anna)
    anna.registers["after"] = 2
    exchange(anna, bert)
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, bert)
    for giver in (owner, bert):
        fresh.receive_snapshot(giver.snapshot(), [giver._replica.identity.public_key.data])
        same(fresh, owner)
    assert dict(fresh.registers.items()) == {"before": 1}
    fresh.close()
    same(make(CARL, genesis, path), owner)


@MODES
def test_a_right_that_was_taken_back_on_one_side_alone_is_taken_back_on_both(make, genesis):
    """Whether the revocation is in the snapshot or here; and what it takes away stays away."""
    owner, anna, bert, carl = (make(each, genesis) for each in (OWNER, ANNA, BERT, CARL))
    owner.grant(ANNA.peer_id)
    exchange_all(owner, anna, bert, carl)
    anna.registers["a"] = 1
    exchange(anna, bert)
    exchange(anna, carl)
    with_it = bert.snapshot()
    owner.revoke(ANNA.peer_id)
    exchange(owner, carl)
    assert not dict(carl.registers.items())
    carl.receive_snapshot(with_it, [BERT.public_key.data])
    same(carl, owner)
    bert.receive_snapshot(owner.snapshot())
    same(bert, owner)


def given(body: list[bytes]) -> Turns[list[bytes]]:
    yield
    return body


def test_a_snapshot_with_what_nobody_had_the_right_to_write_is_refused(make, monkeypatch):
    owner, anna, fresh = (make(each, LISTED) for each in (OWNER, ANNA, CARL))
    owner.registers["a"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(anna._replica.log, "rights", None)
        anna.registers["b"] = 1
    heads = anna.heads()
    body = finish(anna._history.body(heads))
    with monkeypatch.context() as patch:
        patch.setattr(owner._history, "body", lambda heads: given(body))
        patch.setattr(owner._history, "heads", lambda: heads)
        parts = owner.snapshot()
    with pytest.raises(RemoteProtocolError, match="right to write"):
        fresh.receive_snapshot(parts)
    assert not fresh.heads()


@MODES
def test_what_an_owner_gave_behind_his_fork_is_given_no_more(make, genesis, tmp_path):
    """By all who know of it, at once as after a restart, and in a snapshot."""
    path = tmp_path / "anna"
    twin = make(SECOND, genesis, tmp_path / "second")
    twin.registers["first"] = 1
    twin.close()
    (tmp_path / "third").write_bytes((tmp_path / "second").read_bytes())
    twins = [make(SECOND, genesis, tmp_path / name) for name in ("second", "third")]
    anna, owner, fresh = make(ANNA, genesis, path), make(OWNER, genesis), make(CARL, genesis)
    session = twins[0]._replica._session
    twins[1]._replica._session = session
    twins[0].grant(ANNA.peer_id)
    exchange_all(twins[0], anna)
    anna.registers["a"] = 1
    exchange_all(anna, owner)
    assert owner.registers["a"] == 1
    twins[1].registers["other"] = 1
    one, other = (each._replica.database.entry(session.author, 2) for each in twins)
    proof = find_fork(one, other)
    assert proof is not None
    for document in (anna, owner):
        document.receive_fork(proof.encode())
        assert dict(document.registers.items()) == {"first": 1}
    same(anna, owner)
    anna.close()
    same(make(ANNA, genesis, path), owner)
    fresh.receive_snapshot(owner.snapshot())
    same(fresh, owner)


@MODES
@pytest.mark.parametrize("seed", range(6))
def test_after_any_history_of_rights_a_snapshot_comes_to_what_the_log_does(
    make, monkeypatch, genesis, seed
):
    rng = random.Random(seed)
    people = [OWNER, SECOND, ANNA, BERT, CARL]
    documents = [make(each, genesis) for each in people]
    for _ in range(50):
        document = rng.choice(documents)
        match rng.randrange(8):
            case 0 | 1:
                with_prefix = rng.choice(["", "a", "b"])
                level = rng.choice([Level.WRITE, Level.MANAGE])
                with contextlib.suppress(AccessDeniedError, LocalProtocolError):
                    document.grant(
                        rng.choice(people[2:]).peer_id,
                        level,
                        prefix=with_prefix,
                        lasts=rng.choice([None, 0.02]),
                        depth=rng.randrange(3),
                    )
            case 2:
                with contextlib.suppress(AccessDeniedError, LocalProtocolError):
                    document.revoke(rng.choice(people[2:]).peer_id)
            case 3 | 4 | 5:
                with contextlib.suppress(AccessDeniedError):
                    write_anywhere(document, monkeypatch, rng.choice(["a1", "a2", "b1", "c"]))
            case _:
                exchange(document, rng.choice([one for one in documents if one is not document]))
    giver = rng.choice(documents)
    signer = [giver._replica.identity.public_key.data]
    fresh = make(Identity(b"f" * 32), genesis)
    fresh.receive_snapshot(giver.snapshot(), signer)
    same(fresh, giver)
    # Put together with what another one has, it is what the two come to by their logs.
    other = rng.choice([one for one in documents if one is not giver])
    expected = make(Identity(b"e" * 32), genesis)
    for each in (giver, other, giver, other):
        exchange(each, expected)
    other.receive_snapshot(giver.snapshot(), signer)
    assert dict(other.registers.items()) == dict(expected.registers.items())
    exchange_all(giver, other, expected)
    same(other, expected)
