"""An owner contradicts himself: what of his counts, who is appointed in his place, and that all
come to the same whatever they hear of first.
"""

from __future__ import annotations

import itertools
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.crdt.access.appointment import decode_appointments, encode_appointments, sign
from lattica.crdt.access.capability import Level
from lattica.crdt.document import Document, Owner
from lattica.crdt.entries.genesis import Genesis, Mode, Recovery, decode_genesis
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import Make
from tests.support.crdt.sync import exchange, exchange_all, tell

OWNER, SECOND, THIRD, ANNA, BERT, CARL = (Identity(bytes([n]) * 32) for n in range(1, 7))
KEYS = [Identity(bytes([n]) * 32) for n in (11, 12, 13)]
KEYS.sort(key=lambda key: key.public_key.data)
PUBLIC = tuple(key.public_key.data for key in KEYS)


def genesis_of(
    *owners: Identity, recovery: Recovery | None, mode: Mode = Mode.CAPABILITY, sealed: bool = False
) -> Genesis:
    names = tuple(sorted(each.public_key.data for each in owners))
    return Genesis("recovered", names, mode, recovery=recovery, is_sealed=sealed)


BY_KEY = genesis_of(OWNER, recovery=Recovery(1, PUBLIC[:1]))


@pytest.fixture
def default() -> Genesis:
    return BY_KEY


def seen(document: Document) -> tuple[object, ...]:
    """What replicas with the same entries agree on."""
    return (
        document.root,
        document.head_index.heads(b"", None),
        tuple(document.owners()),
        tuple(document.rights()),
    )


def sync(*documents: Document) -> None:
    exchange_all(*documents)
    for document in documents[1:]:
        assert seen(document) == seen(documents[0])


def forked(
    make: Make, folder: Path, identity: Identity, genesis: Genesis, *known: Document
) -> Document:
    """A document whose owner has written after a virtual machine was set back; one of both
    histories has come to `known`.
    """
    path = folder / f"{identity.peer_id}.sqlite3"
    before = make(identity, genesis, path=path)
    before.registers["before"] = 1
    before.grant(ANNA.peer_id)
    for each in known:
        exchange_all(before, each)
    seed = before._replica._session  # a virtual machine has the same inode again
    assert seed is not None
    before.close()
    copy = folder / f"{identity.peer_id}-copy.sqlite3"
    shutil.copyfile(path, copy)
    one = make(identity, genesis, path=path)
    one.registers["one"] = 1
    one.grant(BERT.peer_id)
    for each in known:
        exchange_all(one, each)
    one.close()
    other = make(identity, genesis, path=copy)
    other._replica._session = seed
    other.registers["other"] = 1
    return other


def test_an_owner_who_has_forked_is_frozen_and_what_was_before_counts(make, tmp_path):
    anna = make(ANNA)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    anna.registers["hers"] = 1
    sync(owner, anna)
    assert anna.owners() == (Owner(OWNER.peer_id, is_frozen=True, instead_of=None),)
    # Before the fork: the first right, and the register. Beside it, of both histories: nothing.
    assert dict(anna.registers.items()) == {"before": 1, "hers": 1}
    assert [each.peer for each in anna.rights() if not each.is_revoked] == [ANNA.peer_id]
    # He writes on, by another session, but does nothing that only owners do.
    owner.registers["after"] = 1
    for act in (lambda: owner.grant(CARL.peer_id), lambda: owner.revoke(ANNA.peer_id)):
        with pytest.raises(AccessDeniedError, match="contradicted itself"):
            act()
    assert owner.prune(0.0) == 0
    assert "contradicted itself" in owner.why_not_pruned()
    sync(owner, anna)
    assert anna.registers["after"] == 1


def test_what_a_frozen_owner_does_all_the_same_has_no_effect(make, tmp_path, monkeypatch):
    anna, carl = make(ANNA), make(CARL)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    monkeypatch.setattr(
        "lattica.crdt.document.governance.writer.Writer.check_owner", lambda self, what: None
    )
    owner.grant(CARL.peer_id)
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, anna, carl)
    anna.registers["still"] = 1
    with pytest.raises(AccessDeniedError):
        carl.registers["not"] = 1
    # Neither does it once somebody is appointed who has seen it.
    appointment = anna.appoint(SECOND.peer_id, by=KEYS[0])
    second = make(SECOND)
    exchange_all(anna, second)
    second.present(appointment)
    sync(owner, anna, second)
    with pytest.raises(AccessDeniedError):
        carl.registers["not"] = 1
    assert {each.peer for each in second.rights() if not each.is_revoked} == {ANNA.peer_id}


def test_a_recovery_key_has_the_same_owner_go_on(make, tmp_path):
    anna, bert = make(ANNA), make(BERT)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna, bert)
    sync(owner, anna, bert)
    owner.registers["after"] = 1
    sync(owner, anna, bert)
    appointment = anna.appoint(OWNER.peer_id, by=KEYS[0])
    said = anna.read_appointment(appointment)
    assert (said.former, said.successor, said.is_enough) == (OWNER.peer_id, OWNER.peer_id, True)
    assert said.signers == (KEYS[0].peer_id,)
    owner.present(appointment)
    owner.grant(BERT.peer_id)
    sync(owner, anna, bert)
    assert anna.owners() == (Owner(OWNER.peer_id, is_frozen=False, instead_of=OWNER.peer_id),)
    bert.registers["again"] = 1
    sync(owner, anna, bert)
    assert anna.registers["again"] == 1
    assert anna.registers["after"] == 1
    owner.revoke(BERT.peer_id)
    sync(owner, anna, bert)
    with pytest.raises(AccessDeniedError):
        bert.registers["no more"] = 1


def test_somebody_else_is_appointed_and_the_former_owner_is_none_any_more(make, tmp_path, clock):
    anna, second = make(ANNA), make(SECOND)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    appointment = anna.appoint(SECOND.peer_id, by=KEYS[0])
    # What the former owner writes that the appointment does not name counts no more.
    owner.registers["late"] = 1
    exchange(owner, anna)
    assert anna.registers["late"] == 1
    # The successor is nobody yet, and may read by what he shows.
    assert not anna.may_pull(SECOND.peer_id)
    assert anna.may_pull(SECOND.peer_id, appointment)
    assert not anna.may_pull(THIRD.peer_id, appointment)
    second.present(appointment)
    assert second.owners() != (Owner(SECOND.peer_id, is_frozen=False, instead_of=OWNER.peer_id),)
    exchange(anna, second)
    second.registers["his"] = 1
    second.grant(CARL.peer_id)
    sync(owner, anna, second)
    assert anna.owners() == (Owner(SECOND.peer_id, is_frozen=False, instead_of=OWNER.peer_id),)
    assert dict(anna.registers.items()) == {"before": 1, "his": 1}
    with pytest.raises(AccessDeniedError):
        owner.registers["again"] = 1
    with pytest.raises(AccessDeniedError, match="only owners"):
        owner.revoke(ANNA.peer_id)
    # Nor by dating back.
    clock.ms -= 500_000
    with pytest.raises(AccessDeniedError):
        owner.registers["old"] = 1
    clock.ms += 500_000
    carl = make(CARL)
    exchange_all(anna, carl)
    carl.registers["theirs"] = 1
    sync(owner, anna, second, carl)
    assert second.registers["theirs"] == 1


@pytest.mark.parametrize("mode", [Mode.ALLOW_LIST, Mode.CAPABILITY])
def test_other_owners_appoint_together(make, tmp_path, mode):
    genesis = genesis_of(OWNER, SECOND, THIRD, recovery=Recovery(owners=2), mode=mode)
    second, third, anna = (make(each, genesis) for each in (SECOND, THIRD, ANNA))
    owner = forked(make, tmp_path, OWNER, genesis, second, third, anna)
    sync(owner, second, third, anna)
    # The others are not frozen.
    second.grant(BERT.peer_id)
    half = second.appoint(CARL.peer_id)
    assert not second.read_appointment(half).is_enough
    carl = make(CARL, genesis)
    exchange_all(second, carl)
    carl.present(half)
    with pytest.raises(AccessDeniedError):
        carl.registers["not yet"] = 1
    with pytest.raises(AccessDeniedError, match="does not appoint"):
        owner.sign_appointment(half)
    with pytest.raises(AccessDeniedError, match="does not appoint"):
        anna.sign_appointment(half)
    with pytest.raises(LocalProtocolError, match="already"):
        third.appoint(SECOND.peer_id)
    whole = third.sign_appointment(half)
    carl.present(whole)
    carl.grant(ANNA.peer_id, Level.READ)
    sync(owner, second, third, anna, carl)
    assert {each.peer for each in anna.owners()} == {SECOND.peer_id, THIRD.peer_id, CARL.peer_id}


def test_without_a_fork_or_by_others_nobody_is_appointed(make, tmp_path):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    with pytest.raises(LocalProtocolError, match="nobody is appointed"):
        anna.appoint(ANNA.peer_id, by=KEYS[0])
    with pytest.raises(LocalProtocolError, match="contradicted"):
        anna.appoint(ANNA.peer_id, instead_of=OWNER.peer_id, by=KEYS[0])
    other = make(OWNER, genesis_of(OWNER, recovery=None))
    with pytest.raises(LocalProtocolError, match="without a recovery"):
        other.appoint(ANNA.peer_id, by=KEYS[0])
    forked_one = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(forked_one, anna)
    with pytest.raises(AccessDeniedError, match="does not appoint"):
        anna.appoint(ANNA.peer_id)
    appointment = anna.appoint(SECOND.peer_id, by=KEYS[0])
    with pytest.raises(LocalProtocolError, match="another peer"):
        anna.present(appointment)
    # An appointment whose fork nobody has seen is none.
    fresh = make(SECOND)
    exchange_all(owner, fresh)
    fresh.present(appointment)
    assert not fresh.read_appointment(appointment).is_enough
    with pytest.raises(AccessDeniedError):
        fresh.registers["a"] = 1


def test_a_recovery_key_that_appoints_two_has_one_of_them_be_it_everywhere(make, tmp_path):
    anna = make(ANNA)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    given = {each: anna.appoint(each.peer_id, by=KEYS[0]) for each in (SECOND, THIRD)}
    holders = {each: make(each) for each in given}
    for identity, holder in holders.items():
        exchange_all(anna, holder)
        holder.present(given[identity])
        holder.registers[str(identity.peer_id)] = 1
        holder.grant(CARL.peer_id if identity is SECOND else BERT.peer_id)
    # Each of them has been an owner to somebody.
    others = [make(ANNA), make(ANNA)]
    for other, holder in zip(others, holders.values(), strict=True):
        exchange_all(other, holder)
        assert other.owners()[0].peer == holder._replica.identity.peer_id
    sync(owner, anna, *holders.values(), *others)
    first = min(given, key=lambda each: decode_appointments(given[each], BY_KEY)[-1].id)
    assert [each.peer for each in anna.owners()] == [first.peer_id]
    assert str(first.peer_id) in anna.registers
    assert len([*anna.registers]) == 2
    # And one of them may be followed by somebody else, if he forks as well.
    loser = next(each for each in given if each is not first)
    with pytest.raises(AccessDeniedError):
        holders[loser].registers["again"] = 1


def test_the_recoverys_keys_count_before_the_other_owners(make, tmp_path):
    genesis = genesis_of(OWNER, SECOND, recovery=Recovery(2, PUBLIC, 1))
    second = make(SECOND, genesis)
    owner = forked(make, tmp_path, OWNER, genesis, second)
    sync(owner, second)
    by_owner = second.appoint(THIRD.peer_id)
    assert second.read_appointment(by_owner).is_enough
    by_keys = second.appoint(CARL.peer_id, by=KEYS[0])
    assert not second.read_appointment(by_keys).is_enough
    by_keys = owner.sign_appointment(by_keys, by=KEYS[2])
    third, carl = make(THIRD, genesis), make(CARL, genesis)
    exchange_all(second, third, carl)
    third.present(by_owner)
    third.registers["third"] = 1
    carl.present(by_keys)
    carl.registers["carl"] = 1
    sync(owner, second, third, carl)
    assert {each.peer for each in owner.owners()} == {SECOND.peer_id, CARL.peer_id}
    assert "third" not in owner.registers


def test_who_was_appointed_may_fork_and_be_replaced(make, tmp_path):
    anna = make(ANNA)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    path, copy = tmp_path / "second", tmp_path / "second-copy"
    second = make(SECOND, path=path)
    exchange_all(anna, second)
    second.present(anna.appoint(SECOND.peer_id, by=KEYS[0]))
    second.grant(BERT.peer_id)
    sync(owner, anna, second)
    session = second._replica._session
    second.close()
    shutil.copyfile(path, copy)
    for where in (path, copy):
        second = make(SECOND, path=where)
        second._replica._session = session
        second.registers[where.name] = 1
        exchange_all(anna, second)
    sync(owner, anna)
    assert anna.owners() == (Owner(SECOND.peer_id, is_frozen=True, instead_of=OWNER.peer_id),)
    third = make(THIRD)
    exchange_all(anna, third)
    third.present(anna.appoint(THIRD.peer_id, by=KEYS[0]))
    third.revoke(BERT.peer_id)
    sync(owner, anna, second, third)
    assert anna.owners() == (Owner(THIRD.peer_id, is_frozen=False, instead_of=SECOND.peer_id),)
    # Both who have been owners before are none, and the first appointment says so without the
    # second's session, too: the last session shows all that led to it.
    for former in (owner, second):
        with pytest.raises(AccessDeniedError):
            former.registers["again"] = 1
    alone = make(CARL)
    for chain in itertools.chain(owner.chains_of(third.author, 0), ()):
        alone.receive(chain, "peer")
    for proof in owner.forks():
        alone.receive_fork(proof)
    assert [each.peer for each in alone.owners()] == [THIRD.peer_id]


def test_it_is_the_same_in_any_order_and_after_a_restart(make, tmp_path):
    anna, second = make(ANNA), make(SECOND)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    anna.registers["a"] = 1
    exchange_all(owner, anna)
    appointment = anna.appoint(SECOND.peer_id, by=KEYS[0])
    owner.registers["late"] = 1
    exchange_all(anna, second)
    second.present(appointment)
    second.grant(BERT.peer_id)
    second.revoke(ANNA.peer_id)
    bert = make(BERT)
    exchange_all(second, bert)
    bert.registers["b"] = 1
    # The former owner has not heard of it; what he writes goes to the others, too.
    owner.registers["later"] = 1
    parts = [*owner.chains_since({}), *bert.chains_since({}), *anna.chains_since({})]
    proofs = [*bert.forks()]
    sync(owner, anna, second, bert)
    choose = random.Random(7)
    for number in range(5):
        path = tmp_path / f"order-{number}"
        late = make(CARL, path=path)
        order = [*((False, each) for each in parts), *((True, each) for each in proofs)] * 2
        choose.shuffle(order)
        for place, (is_fork, each) in enumerate(order):
            if is_fork:
                late.receive_fork(each)
            else:
                late.receive(each, "peer")
            if place == len(order) // 2:
                late.close()
                late = make(CARL, path=path)
        sync(owner, late)
        late.close()
        assert seen(make(CARL, path=path)) == seen(owner)


def test_a_snapshot_by_the_new_owner_is_believed(make, tmp_path):
    anna, second = make(ANNA), make(SECOND)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    exchange_all(anna, second)
    second.present(anna.appoint(SECOND.peer_id, by=KEYS[0]))
    second.grant(BERT.peer_id)
    sync(owner, anna, second)
    fresh = make(CARL)
    fresh.receive_snapshot(second.snapshot())
    assert seen(fresh) == seen(second)
    with pytest.raises(RemoteProtocolError, match="believed"):
        make(CARL).receive_snapshot(anna.snapshot())
    # And one is taken by who has only seen the time before, and has more of the former owner.
    owner_alone = make(BERT)
    for chain in owner.chains_of(owner.author, 0):
        owner_alone.receive(chain, "peer")
    owner_alone.receive_snapshot(second.snapshot())
    sync(owner_alone, second)


def test_a_sealed_document_gets_another_key_from_its_new_owner(make, tmp_path):
    genesis = genesis_of(OWNER, recovery=Recovery(1, PUBLIC[:1]), sealed=True)
    anna, second = make(ANNA, genesis), make(SECOND, genesis)
    owner = forked(make, tmp_path, OWNER, genesis, anna)
    sync(owner, anna)
    with pytest.raises(AccessDeniedError, match="contradicted itself"):
        owner.rotate_key()
    owner.tend_keys()  # which does nothing
    exchange_all(anna, second)
    second.present(anna.appoint(SECOND.peer_id, by=KEYS[0]))
    second.tend_keys()
    exchange_all(owner, anna, second)
    anna.registers["secret"] = 1
    exchange_all(owner, anna, second)
    assert second.registers["secret"] == 1
    assert not owner.can_read


def test_who_was_replaced_hears_of_that_and_of_nothing_that_came_later(make, tmp_path):
    genesis = genesis_of(OWNER, recovery=Recovery(1, PUBLIC[:1]), sealed=True)
    anna = make(ANNA, genesis)
    owner = forked(make, tmp_path, OWNER, genesis, anna)
    for chain in owner.chains_since({}):
        anna.receive(chain, "owner")
    assert owner.is_owner
    assert not owner.owners()[0].is_frozen  # it has not heard of its other history
    given = {each: anna.appoint(each.peer_id, by=KEYS[0]) for each in (SECOND, THIRD)}
    first, loser = sorted(given, key=lambda each: decode_appointments(given[each], genesis)[-1].id)
    assert not [*anna.standing_of(OWNER.peer_id)]
    late, taken = make(loser, genesis), make(first, genesis)
    for each in (late, taken):
        exchange_all(anna, each)
        each.present(given[each._replica.identity])
        each.tend_keys()
        each.registers["secret"] = 1
    exchange_all(anna, taken)
    assert not anna.may_pull(OWNER.peer_id)
    assert not anna.may_pull(loser.peer_id, given[loser])
    for nobody in (BERT.peer_id, loser.peer_id):
        assert not [*anna.standing_of(nobody)]
    for document, shown in ((owner, b""), (late, given[loser])):
        peer = document._replica.identity.peer_id
        tell(document, anna.standing_of(peer, shown))
        assert document.owners() == taken.owners()
        assert not document.is_owner
        assert document.heads()[taken.author][0] == 1
        with pytest.raises(AccessDeniedError):
            document.registers["again"] = 1
    assert "secret" not in owner.registers


def test_a_genesis_says_who_recovers_and_an_old_one_is_read_as_it_was():
    assert decode_genesis(BY_KEY.encode(), BY_KEY.doc_id) == BY_KEY
    old = genesis_of(OWNER, recovery=Recovery(1, PUBLIC[:1], is_in_force=False))
    assert decode_genesis(old.encode(), old.doc_id) == old
    assert not old.can_be_recovered
    assert len(old.encode()) == len(BY_KEY.encode()) - 1
    for refused in (
        Recovery(),
        Recovery(0, PUBLIC),
        Recovery(4, PUBLIC),
        Recovery(owners=1),
        Recovery(1, PUBLIC, -1),
        Recovery(1, (), 1),
    ):
        with pytest.raises(LocalProtocolError):
            genesis_of(OWNER, recovery=refused)


def test_in_a_document_of_before_an_owner_goes_on_by_another_session(make, tmp_path):
    old = genesis_of(OWNER, recovery=Recovery(1, PUBLIC[:1], is_in_force=False))
    anna = make(ANNA, old)
    owner = forked(make, tmp_path, OWNER, old, anna)
    sync(owner, anna)
    owner.grant(CARL.peer_id)
    sync(owner, anna)
    assert {each.peer for each in anna.rights()} == {ANNA.peer_id, CARL.peer_id}
    assert not anna.owners()[0].is_frozen


def test_made_up_appointments_are_refused(make, tmp_path):
    anna = make(ANNA)
    owner = forked(make, tmp_path, OWNER, BY_KEY, anna)
    sync(owner, anna)
    good = anna.appoint(SECOND.peer_id, by=KEYS[0])
    (appointment,) = decode_appointments(good, BY_KEY)
    assert encode_appointments([appointment]) == good
    key, signature = appointment.signatures[0]
    spoiled = bytes([signature[0] ^ 1]) + signature[1:]
    bad = [
        replace(appointment, signatures=((key, spoiled),)),
        replace(appointment, successor=THIRD.public_key.data),
        replace(appointment, signatures=sign(replace(appointment, signatures=()), ANNA).signatures),
        sign(replace(appointment, session=anna.author, signatures=()), KEYS[0]),
        sign(replace(appointment, parent=bytes(32), signatures=()), KEYS[0]),
        sign(replace(appointment, successor=bytes(32), signatures=()), KEYS[0]),
        sign(replace(appointment, until=-1, signatures=()), KEYS[0]),
        sign(replace(appointment, last=appointment.last * 2, signatures=()), KEYS[0]),
    ]
    for each in bad:
        with pytest.raises(RemoteProtocolError):
            decode_appointments(encode_appointments([each]), BY_KEY)
    for place in range(len(good)):
        with pytest.raises(RemoteProtocolError):
            decode_appointments(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], BY_KEY)
