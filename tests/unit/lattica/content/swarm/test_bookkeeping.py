"""Who is told of whom, whom a fetch asks, and limits of rates: the pure books of a swarm."""

from __future__ import annotations

import random

import pytest

from lattica.content.manifest.cid import Cid
from lattica.content.swarm.candidates import FAILED_PAUSE, MAX_CANDIDATES, Candidates
from lattica.content.swarm.holdings import Holdings
from lattica.content.swarm.members import CLAIM_LIFE, MAX_DEFERRALS, MAX_UNTOLD, Members
from lattica.content.swarm.messages import MAX_MEMBERS, MAX_NUMBERS, Hello, Member, Sending
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.limits.pace import Pace
from lattica.nat.base.net.multiaddr import Multiaddr

PEERS = [Identity.generate().peer_id for _ in range(MAX_MEMBERS + 3)]
ADDRS = (Multiaddr("/ip4/192.0.2.1/tcp/4001"),)
SHARES = Hello(Cid.of(b""), True, ADDRS)
TAKES = Hello(Cid.of(b""), False)


def book() -> Members[int]:
    return Members(random.Random(1))


def peers_of(members: tuple[Member, ...]) -> list[PeerId]:
    return [member.peer_id for member in members]


def test_those_who_share_are_told_to_all_others_and_those_who_do_not_to_nobody():
    made = book()
    made.enter(1, PEERS[1], SHARES)
    assert made.untold(1) == ((), ())
    made.enter(2, PEERS[2], SHARES)
    made.enter(3, PEERS[3], TAKES)
    assert peers_of(made.untold(1)[0]) == [PEERS[2]]
    assert made.untold(2)[0] == (Member(PEERS[1], ADDRS),)
    assert peers_of(made.untold(3)[0]) == [PEERS[1], PEERS[2]]
    assert made.untold(3) == ((), ())
    made.leave(1)
    made.leave(1)
    made.enter(4, PEERS[4], TAKES)
    assert peers_of(made.untold(4)[0]) == [PEERS[2]]


def test_a_peer_is_not_told_of_itself_and_of_some_where_there_are_many():
    made = book()
    made.enter(0, PEERS[0], SHARES)
    made.enter(1, PEERS[0], SHARES)
    assert made.untold(0) == made.untold(1) == ((), ())
    for number, peer in enumerate(PEERS[1:], 2):
        made.enter(number, peer, SHARES)
    told = peers_of(made.untold(len(PEERS))[0])
    assert len(told) == len(set(told)) == MAX_MEMBERS
    assert len(made.untold(0)[0]) <= MAX_MEMBERS


def test_what_one_who_shares_has_asked_for_is_told_to_the_others():
    made = book()
    made.enter(1, PEERS[1], SHARES)
    made.enter(2, PEERS[2], TAKES)
    assert made.asks(PEERS[1], [5, 6], 0.0)
    assert made.asks(PEERS[2], [7], 0.0)  # nobody gets it from there
    assert made.asks(PEERS[3], [8], 0.0)
    assert made.untold(1)[1] == ()
    assert made.untold(2)[1] == (Sending((5, 6), PEERS[1]),)


def test_who_asks_for_what_another_will_share_is_put_off_once():
    made = book()
    for number in (1, 2, 3):
        made.enter(number, PEERS[number], SHARES)
    assert made.asks(PEERS[1], [5], 0.0)
    assert made.asks(PEERS[1], [5], 0.1)  # itself
    assert not made.asks(PEERS[2], [5], 1.0)
    assert made.asks(PEERS[2], [5], 2.0)
    assert not made.asks(PEERS[3], [5], 3.0)
    assert made.untold(3)[1] == (Sending((5, 5), PEERS[1]), Sending((5,), PEERS[2]))
    assert made.asks(PEERS[4], [5], 3.0)  # who does not watch knows nobody else
    assert made.asks(PEERS[1], [6], 3.0)
    made.leave(1)
    assert made.asks(PEERS[2], [6], 4.0)
    assert made.asks(PEERS[3], [6], 4.0 + CLAIM_LIFE)


def test_who_is_gone_is_waited_for_no_more_and_whoever_asks_next_is():
    """All of those who waited for one that has left do not ask the source at once."""
    made = book()
    for number in range(6):
        made.enter(number, PEERS[number], SHARES)
    for number in range(6):
        assert made.asks(PEERS[number], [5], 0.1) == (number == 0)
    for gone in range(5):
        made.leave(gone)
        answers = [made.asks(PEERS[number], [5], 1.0 + gone) for number in range(gone + 1, 6)]
        waited = MAX_DEFERRALS - 1 - gone
        assert answers[0]
        assert answers[1:] == [waited <= 0] * len(answers[1:])


def test_who_listens_slowly_misses_the_oldest():
    made = book()
    made.enter(1, PEERS[1], SHARES)
    made.enter(2, PEERS[2], TAKES)
    made.asks(PEERS[1], range(MAX_UNTOLD + 10), 0.0)
    (first,) = made.untold(2)[1]
    assert len(first.numbers) == MAX_NUMBERS
    assert first.numbers[0] == 10


def test_candidates_fastest_then_unknown_then_failed():
    made = Candidates()
    for peer in PEERS[:4]:
        made.hear(Member(peer, ()))
    taken = [made.take(0.0) for _ in range(5)]
    assert taken[4] is None
    assert made.active == 4
    made.ended(PEERS[0], 0.0, rate=5.0, failed=False)
    made.ended(PEERS[1], 0.0, rate=9.0, failed=False)
    made.ended(PEERS[2], 0.0, rate=None, failed=True)
    made.ban(PEERS[3])
    made.hear(Member(PEERS[4], ADDRS))
    assert made.is_waiting
    order = [made.take(1.0) for _ in range(4)]
    assert [member and member.peer_id for member in order] == [PEERS[1], PEERS[0], PEERS[4], None]
    again = made.take(FAILED_PAUSE)
    assert again is not None
    assert again.peer_id == PEERS[2]
    made.hear(Member(PEERS[3], ADDRS))  # others may speak of it as they like
    assert made.take(1e9) is None


def test_there_are_only_so_many_candidates():
    made = Candidates()
    identity = Identity.generate().peer_id.to_bytes()
    for number in range(MAX_CANDIDATES + 5):
        made.hear(Member(PeerId(identity[:-2] + number.to_bytes(2, "big")), ()))
    assert len(made) == MAX_CANDIDATES


def test_holdings_are_told_in_the_order_in_which_they_came():
    made = Holdings(20)
    made.add([3, 17])
    made.add([3, 4])
    assert made.bits == 1 << 3 | 1 << 17 | 1 << 4
    assert 17 in made
    assert 5 not in made
    assert list(made.since(0, 2)) == [3, 17]
    assert list(made.since(2, 9)) == [4]
    assert list(made.since(made.position, 9)) == []


def test_pace():
    assert Pace().delay(1 << 40, 0.0) == 0.0
    pace = Pace(1000)
    now = sent = 0.0
    while now < 10:
        now += pace.delay(100, now)
        sent += 100
    assert 9_900 <= sent <= 10_300
    # A pause gives no right to much at once.
    now += 100
    assert sum(pace.delay(100, now) > 0 for _ in range(20)) >= 18
    with pytest.raises(ValueError, match="a rate of 0"):
        Pace(0)
