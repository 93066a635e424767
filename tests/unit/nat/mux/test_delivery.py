"""Whether what is sent arrives: when a path is given up, and when it must not be."""

from __future__ import annotations

import pytest

from lattica.nat.config import Timeouts
from lattica.nat.mux.delivery import Delivery, DeliveryWatch
from tests.support.pairs.connected import connected


def stuck_after(watch: DeliveryWatch, deliveries, begin: float = 100.0) -> float | None:
    """Seconds until the watch, asked once a second, has had enough."""
    for second, delivery in enumerate(deliveries):
        if watch.look(delivery, begin + second):
            return second
    return None


def test_nothing_arrives_while_something_waits():
    assert stuck_after(DeliveryWatch(8.0), [Delivery(True, 5)] * 20) == 8


@pytest.mark.parametrize(
    "deliveries",
    [
        [None] * 60,
        [Delivery(False, 5)] * 60,
        [Delivery(True, n) for n in range(60)],
        # A little every seven seconds is slow, and no black hole.
        [Delivery(True, n // 7) for n in range(60)],
        # It waits for the reader now and then.
        [Delivery(n % 5 != 0, 5) for n in range(60)],
    ],
    ids=["unknown", "idle", "fast", "slow", "reader"],
)
def test_what_is_no_black_hole(deliveries):
    assert stuck_after(DeliveryWatch(8.0), deliveries) is None


def test_it_begins_in_the_middle():
    deliveries = [Delivery(True, n) for n in range(30)] + [Delivery(True, 29)] * 30
    assert stuck_after(DeliveryWatch(8.0), deliveries) == 29 + 8


def test_a_pause_of_this_process_does_not_count():
    watch = DeliveryWatch(8.0)
    assert not watch.look(Delivery(True, 5), 100.0)
    assert not watch.look(Delivery(True, 5), 130.0)
    # Of the 30 seconds two count.
    assert stuck_after(watch, [Delivery(True, 5)] * 20, begin=131.0) == 5


async def test_a_connection_that_carries_nothing_ends_and_says_so(autojump_clock, monkeypatch):
    async with connected(ticking=True, timeouts=Timeouts(delivery=8.0)) as (alice, bob):
        stream = alice.open()
        await stream.send_all(b"hello")
        await bob.accept()
        # Both still hear each other: pings are answered.
        monkeypatch.setattr(alice.raw, "delivery", lambda: Delivery(True, 5))
        await alice.connection.closed.wait()
        reason = alice.connection.closed_reason
        assert reason is not None
        assert "nothing that was sent has arrived for 8 s" in reason
        assert alice.connection.stalled
        assert not bob.connection.stalled


async def test_a_peer_that_falls_silent_has_not_carried(autojump_clock):
    async with connected(ticking=True) as (alice, bob):
        stream = alice.open()
        await stream.send_all(b"hello")
        await bob.accept()
        alice.raw.cut = bob.raw.cut = True
        await alice.connection.closed.wait()
        assert alice.connection.stalled


async def test_a_reader_that_waits_in_vain_leaves_the_path_unless_others_use_it(autojump_clock):
    async with connected() as (alice, _):
        waiting, other = alice.open(), alice.open()
        await waiting.send_all(b"?")
        await other.send_all(b"?")
        waiting.leave_path("nothing comes")
        assert [stream.id for stream in alice.connection.session.streams.values()] == [other.id]
        other.leave_path("nothing comes")
        assert alice.connection.closed_reason == "nothing comes"
        assert alice.connection.stalled
