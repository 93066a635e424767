"""Membership: who is there, by what members say, and who is not any more."""

from __future__ import annotations

import random

import pytest
import trio

from lattica.dht.topics.membership.core import (
    HERE,
    LATE,
    LEAVING,
    MAX_DATA,
    MAX_LEFT,
    MISSED,
    SHORTEST,
    MemberJoined,
    MemberLeft,
    MembershipCore,
    decode_presence,
    encode_here,
)
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from tests.unit.dht.topics.test_topics import TOPIC, peers

ONE, TWO = (Identity.generate().peer_id for _ in range(2))


def some_id(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def test_members_join_change_and_leave():
    core = MembershipCore(random.Random(1), 0.0)
    assert core.heard(ONE, 1, b"a", 0.0) == MemberJoined(ONE, b"a")
    assert core.heard(ONE, 2, b"a", 1.0) is None
    assert core.heard(ONE, 3, b"b", 2.0) == MemberJoined(ONE, b"b")
    assert core.members == {ONE: b"b"}
    assert core.heard(ONE, 4, None, 3.0) == MemberLeft(ONE)
    assert core.heard(TWO, 1, None, 3.0) is None
    assert core.members == {}


def test_what_comes_late_is_no_news():
    core = MembershipCore(random.Random(1), 0.0)
    core.heard(ONE, 5, b"", 0.0)
    core.heard(ONE, 7, None, 1.0)
    assert core.heard(ONE, 6, b"", 2.0) is None
    assert core.heard(ONE, 8, b"", 3.0) == MemberJoined(ONE)
    for number in range(2 * MAX_LEFT):
        core.heard(some_id(number), 1, None, 4.0)
    assert len(core._left) == MAX_LEFT


def test_who_comes_back_with_its_clock_set_back_is_a_member_again():
    """Numbers are those of its clock. It was none until that was where it had been."""
    core = MembershipCore(random.Random(1), 0.0)
    core.heard(ONE, 1000, b"", 0.0)
    core.heard(ONE, 1001, None, 1.0)
    core.heard(TWO, 1000, b"", 0.0)
    assert core.expire(50.0) == [MemberLeft(TWO, silent=True)]
    for peer_id in (ONE, TWO):
        assert core.heard(peer_id, 7, b"", LATE) is None
        assert core.heard(peer_id, 8, b"", 51.0 + LATE) == MemberJoined(peer_id)


def test_whoever_is_silent_for_long_is_gone():
    core = MembershipCore(random.Random(1), 0.0)
    core.heard(ONE, 1, b"", 0.0)
    core.heard(TWO, 1, b"", 0.0)
    core.heard(TWO, 2, b"", 15.0)
    assert core.expire(MISSED * SHORTEST - 1) == []
    assert core.expire(MISSED * SHORTEST + 1) == [MemberLeft(ONE, silent=True)]
    assert core.expire(16.0 + MISSED * SHORTEST) == [MemberLeft(TWO, silent=True)]
    assert core.next_expiry() is None


def test_signs_of_life_grow_rarer_with_the_number_of_members():
    core = MembershipCore(random.Random(1), 0.0)
    assert core.interval == SHORTEST
    for number in range(1000):
        core.heard(some_id(number), 1, b"", 0.0)
    assert core.interval == pytest.approx(100.1)
    core.said(0.0)
    assert 80 <= core.due <= 101
    assert len(core.expire(299.0)) == 0
    assert len(core.expire(302.0)) == 1000


def test_a_newcomer_is_told_soon_by_those_who_have_been_silent():
    core = MembershipCore(random.Random(1), 0.0)
    core.said(0.0)
    core.heard(ONE, 1, b"", 1.0)
    assert core.due > 5  # it has spoken a moment ago
    core.heard(TWO, 1, b"", 5.0)
    assert core.due <= 6.1


@pytest.mark.parametrize("message", [b"", b"\x02", b"\x00x", HERE + bytes(MAX_DATA + 1)])
def test_what_is_no_presence_is_refused(message):
    with pytest.raises(RemoteProtocolError):
        decode_presence(message)


def test_presence_is_what_it_was():
    assert decode_presence(encode_here(b"gpu")) == b"gpu"
    assert decode_presence(LEAVING) is None


async def test_members_that_are_not_connected_know_of_each_other(autojump_clock):
    async with peers(3) as (net, (one, two, three)):
        net.link(one.host, two.host)
        net.link(two.host, three.host)
        async with (
            one.topics.topic(TOPIC).membership(b"first") as first,
            two.topics.topic(TOPIC).membership(),
        ):
            async with three.topics.topic(TOPIC).membership(b"third") as third:
                joined = {}
                with trio.fail_after(60):
                    while three.host.peer_id not in joined or two.host.peer_id not in joined:
                        event = await anext(first)
                        assert isinstance(event, MemberJoined)
                        joined[event.peer_id] = event.data
                    assert joined[three.host.peer_id] == b"third"
                    while len(third.members()) < 2:
                        await anext(third)
                assert third.members()[one.host.peer_id] == b"first"
            with trio.fail_after(5):
                assert await anext(first) == MemberLeft(three.host.peer_id)
            two.host.drop(one.host.peer_id)
            with trio.fail_after(120):
                assert await anext(first) == MemberLeft(two.host.peer_id, silent=True)
        with pytest.raises(LocalProtocolError):
            async with one.topics.topic(TOPIC).membership(bytes(1000)):
                pass


async def test_who_was_killed_is_no_member_to_those_who_come_back(autojump_clock):
    async with peers(3) as (net, (one, killed, back)):
        net.link(one.host, killed.host)
        link = net.link(back.host, one.host)
        async with one.topics.topic(TOPIC).membership(), trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def live() -> None:
                with scope:
                    async with killed.topics.topic(TOPIC).membership(b"killed"):
                        await trio.sleep_forever()

            nursery.start_soon(live)
            async with back.topics.topic(TOPIC).membership() as members:
                with trio.fail_after(60):
                    while len(members.members()) < 2:
                        await anext(members)
            link.abort("away")
            await trio.sleep(30.0)
            one.host.drop(killed.host.peer_id)
            net.hosts.pop(killed.host.peer_id)
            scope.cancel()
            await trio.sleep(35.0)
            net.link(back.host, one.host)
            async with back.topics.topic(TOPIC).membership() as members:
                with trio.move_on_after(20.0):
                    while True:
                        event = await anext(members)
                        assert event.peer_id == one.host.peer_id
                assert set(members.members()) == {one.host.peer_id}


async def test_what_is_raised_among_members_comes_out_as_it_is(autojump_clock):
    async with peers(1) as (_, (one,)):
        with pytest.raises(KeyError):
            async with one.topics.topic(TOPIC).membership():
                raise KeyError("a reader's own")
