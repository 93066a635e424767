"""For how long nobody is asked for what was not taken, and when at once."""

from __future__ import annotations

import random

import trio

from lattica.crdt.access.capability import Level
from lattica.crdt.entries.genesis import Mode
from lattica.crdt.store.replication.patience import LONGEST_PAUSE, Patience
from lattica.crdt.sync.heads import Head, HeadIndex
from lattica.nat.base.keys.identity import Identity
from tests.unit.crdt.store.test_store import host_of, stores

AUTHOR = bytes(32)
THEIRS = Head(AUTHOR, 9, bytes(16))


def refused(patience: Patience, index: HeadIndex, times: int) -> float:
    now = 0.0
    for _ in range(times):
        patience.asked({AUTHOR: THEIRS}, index, now)
        now += LONGEST_PAUSE
    return now - LONGEST_PAUSE


def test_what_was_not_taken_is_not_asked_for_until_something_has_changed():
    patience, index = Patience(random.Random(1)), HeadIndex()
    now = refused(patience, index, 9)
    assert not patience.may_ask(THEIRS, None, now + 60)
    assert patience.may_ask(THEIRS, None, now + LONGEST_PAUSE + 1)
    assert patience.may_ask(Head(AUTHOR, 10, bytes(16)), None, now)
    # Some of it has come: what has kept the rest out may be gone.
    assert patience.may_ask(THEIRS, Head(AUTHOR, 3, bytes(16)), now)
    patience.begin_anew()
    assert patience.may_ask(THEIRS, None, now)


async def test_who_gets_a_right_is_asked_at_once_however_often_he_was_refused(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first = await one.create("models", mode=Mode.ALLOW_LIST)
        first.grant(host_of(two).peer_id, Level.READ)
        await host_of(two).connect(host_of(one).peer_id)
        second = await two.open(first.id)
        await second.synced()
        patience = first._replicator.exchanges._patience
        for _ in range(12):
            patience.asked({AUTHOR: THEIRS}, first.head_index, trio.current_time())
        assert not first._replicator.exchanges._may_ask(THEIRS)
        before = first.sync_counts.turns
        first.grant(Identity(bytes([7]) * 32).peer_id)
        assert first._replicator.exchanges._may_ask(THEIRS)
        with trio.fail_after(2):
            while first.sync_counts.turns == before:
                await trio.sleep(0.1)
