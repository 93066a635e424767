"""Whom a block is asked of: it comes if anybody honest has it, whatever the others do."""

from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content.bitswap.asking import MAX_ASKED, MAX_RECORDS, PATIENCE, Asking, Sent
from lattica.content.bitswap.messages import Message
from lattica.content.bitswap.record import PeerRecord
from lattica.content.manifest.cid import Cid
from lattica.nat.base.keys.peer_id import PeerId

CID = Cid.of(b"the block")
RAW = bytes(CID)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def asked_for_block(sent: list[Sent]) -> list[PeerId]:
    return [
        each.peer
        for each in sent
        if any(not want.have_only and not want.cancel for want in each.message.wants)
    ]


class Behaviour(Enum):
    HOLDER = "sends it"
    EMPTY = "says that it has not got it"
    LIAR = "says that it has it, and sends nothing"
    FICKLE = "says that it has it, and later that it has not"
    MUTE = "says nothing"
    GONE = "leaves when it is asked"


@settings(max_examples=200)
@given(st.lists(st.sampled_from(Behaviour), max_size=12), st.integers(0, 12), st.randoms())
def test_a_holder_is_found(others: list[Behaviour], late: int, random: object) -> None:
    behaviours = [*others, Behaviour.HOLDER]
    random.shuffle(behaviours)  # type: ignore[attr-defined]
    peers = {peer(number): behaviour for number, behaviour in enumerate(behaviours)}
    early = [*peers][late:]
    asking, now = Asking(), 0.0
    mail = asking.begin(CID, early, now)
    mail += asking.ask(CID, peers, now)
    steps = 0
    while True:
        steps += 1
        assert steps < 1000
        if not mail:
            due = asking.next_wake
            assert due is not None, "nobody is asked any more"
            assert due <= now + PATIENCE
            now = due
            mail = asking.tick(now)
            continue
        sent = mail.pop(0)
        behaviour = peers[sent.peer]
        (want,) = sent.message.wants
        if behaviour is Behaviour.HOLDER and not want.have_only:
            break
        if behaviour is Behaviour.GONE:
            mail += asking.lost(sent.peer, now)
        elif behaviour is Behaviour.EMPTY or (behaviour is Behaviour.FICKLE and not want.have_only):
            mail += asking.on_message(sent.peer, Message(dont_haves=(RAW,)), now)
        elif behaviour is not Behaviour.MUTE and want.have_only:
            mail += asking.on_message(sent.peer, Message(haves=(RAW,)), now)
    assert asking.expects_blocks_of(sent.peer)
    asking.got(sent.peer, CID, 5, now)
    told = asking.end(CID)
    assert all(want.cancel for each in told for want in each.message.wants)
    assert sent.peer in {each.peer for each in told}
    assert CID not in asking
    assert asking.next_wake is None


def test_one_peer_is_asked_for_the_block_and_the_others_whether_they_have_it() -> None:
    asking = Asking()
    sent = asking.begin(CID, [peer(1), peer(2), peer(3)], 0.0)
    assert asked_for_block(sent) == [peer(1)]
    assert {each.peer for each in sent} == {peer(1), peer(2), peer(3)}
    assert asking.on_message(peer(2), Message(haves=(RAW,)), 0.1) == []
    refused = asking.on_message(peer(1), Message(dont_haves=(RAW,)), 0.2)
    assert asked_for_block(refused) == [peer(2)]


def test_who_is_silent_is_asked_anew_if_nobody_else_is_left() -> None:
    """beetswap looks a want up once, and then waits for a put that may have been before."""
    asking = Asking()
    asking.begin(CID, [peer(1), peer(2)], 0.0)
    assert asked_for_block(asking.tick(PATIENCE)) == [peer(2)]
    asked = {}
    for count in range(2, 12):
        now = count * PATIENCE
        assert asking.next_wake == now
        sent = asking.tick(now)
        if sent:
            wants: dict[PeerId, list[tuple[bool, bool]]] = {peer(1): [], peer(2): []}
            for each in sent:
                wants[each.peer] += [(want.cancel, want.have_only) for want in each.message.wants]
            assert wants == {who: [(True, False), (False, False)] for who in wants}
            asked[count] = sent
    assert [*asked] == [2, 3, 5, 9]  # ever more seldom
    failures = {who: record.failures for who, record in asking.records.items()}
    assert failures == {peer(1): 1, peer(2): 1}  # once for one block


def test_who_is_sending_something_is_not_asked_anew() -> None:
    asking = Asking()
    asking.begin(CID, [peer(1)], 0.0)
    assert asking.tick(PATIENCE, {peer(1)}) == []
    assert asked_for_block(asking.tick(2 * PATIENCE, {peer(2)})) == [peer(1)]


def test_who_was_good_is_asked_first() -> None:
    asking = Asking()
    other = Cid.of(b"other")
    asking.begin(other, [], 0.0)
    asking.got(peer(3), other, 5, 0.0)
    assert asked_for_block(asking.begin(CID, [peer(1), peer(2), peer(3)], 0.0)) == [peer(3)]


def test_many_liars_take_few_rounds_and_are_asked_last_the_next_time() -> None:
    asking, holder = Asking(), peer(9)
    liars = [peer(number) for number in range(8)]
    asking.begin(CID, [*liars, holder], 0.0)
    for each in (*liars, holder):
        asking.on_message(each, Message(haves=(RAW,)), 0.1)
    counts = [len(asked_for_block(asking.tick(now * PATIENCE))) for now in range(1, 5)]
    assert counts == [1, 2, 4, 1]
    asking.got(holder, CID, 5, 4 * PATIENCE)
    asking.end(CID)
    other = Cid.of(b"other")
    assert asked_for_block(asking.begin(other, [*liars, holder], 30.0)) == [holder]


def test_who_sends_slowly_is_joined_by_one_at_a_time() -> None:
    asking = Asking()
    everybody = [peer(number) for number in range(9)]
    asking.begin(CID, everybody, 0.0)
    counts = [len(asked_for_block(asking.tick(n * PATIENCE, everybody))) for n in range(1, 5)]
    assert counts == [1, 1, 1, 1]


def test_what_peers_were_good_for() -> None:
    asking, other = Asking(), Cid.of(b"other")
    asking.begin(CID, [peer(1), peer(2)], 0.0)
    asking.on_message(peer(2), Message(haves=(RAW,)), 0.1)
    for now in (PATIENCE, 2 * PATIENCE):
        asking.tick(now)
    asking.got(peer(2), CID, 1000, PATIENCE + 2.0)
    asking.end(CID)
    late, good = asking.records[peer(1)], asking.records[peer(2)]
    assert (late.blocks, late.failures, late.success_rate) == (0, 1, 0.0)
    assert (good.blocks, good.failures, good.success_rate, good.speed) == (1, 1, 0.5, 500.0)
    # Who leaves when it is asked, or says nothing until nobody waits any more, has failed as well;
    # who has not got it, or was not asked for it, has not.
    asking.begin(CID, [peer(3), peer(4), peer(5)], 20.0)
    asking.lost(peer(3), 21.0)
    asking.begin(other, [peer(6), peer(7)], 20.0)
    asking.on_message(peer(6), Message(dont_haves=(bytes(other),)), 21.0)
    asking.gave_up(other, 21.5)
    failed = {each: record.failures for each, record in asking.records.items()}
    assert failed == {peer(1): 1, peer(2): 1, peer(3): 1, peer(7): 1}
    asking.forget(peer(7))
    assert peer(7) not in asking.records


def test_peers_whose_records_are_kept_are_bounded() -> None:
    asking = Asking()
    asking.begin(CID, [], 0.0)
    for number in range(MAX_RECORDS + 7):
        asking.got(peer(number), CID, 1, 0.0)
    assert len(asking.records) == MAX_RECORDS
    assert peer(0) not in asking.records


def test_the_score_is_the_originals() -> None:
    record = PeerRecord()
    assert (record.score(0.0), record.success_rate, record.speed) == (55.0, 0.5, 0.0)
    record.came(1_000_000, 1.0, 0.0)  # 60 of 100 for speed, 100 for success, 10 for stability
    assert record.score(0.0) == pytest.approx(30 + 35 + 1.5)
    assert record.score(60.0) == pytest.approx(66.5 * 0.9)
    assert record.score(6000.0) == pytest.approx(66.5 * 0.7)
    record.failed(0.0)
    assert record.score(0.0) == pytest.approx(30 + 17.5)
    for _ in range(20):
        record.came(10**9, 1.0, 0.0)
    assert record.score(0.0) == pytest.approx(50 + 35 * 21 / 22 + 15)
    silent = PeerRecord()
    silent.failed(0.0)
    assert (silent.score(0.0), silent.success_rate) == (0.0, 0.0)


def test_what_nobody_asked_for_changes_nothing() -> None:
    asking = Asking()
    asking.begin(CID, [peer(1)], 0.0)
    assert asking.on_message(peer(9), Message(haves=(RAW,), dont_haves=(RAW,)), 0.0) == []
    stranger = Message(haves=(bytes(Cid.of(b"x")), b"rubbish"), dont_haves=(b"rubbish",))
    assert asking.on_message(peer(1), stranger, 0.0) == []
    assert not asking.expects_blocks_of(peer(9))


def test_not_everybody_is_asked() -> None:
    asking = Asking()
    sent = asking.begin(CID, map(peer, range(1000)), 0.0)
    assert len(sent) == MAX_ASKED
    assert asking.ask(CID, [peer(2000)], 0.0) == []
