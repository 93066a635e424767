"""Places of handlers: one peer does not keep others waiting, and nobody's work is broken off."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.base.limits.places import Source
from lattica.nat.swarm.serving.handler_places import HandlerPlaces

pytestmark = pytest.mark.usefixtures("autojump_clock")


class FakeStream:
    """A stream whose handler waits for its peer until the stream is reset, or its work is done."""

    def __init__(self, peer: str, network: str = "net") -> None:
        self.source = Source(peer, network)
        self.sent = 0
        self.is_awaited = True
        self.reason = ""
        self.ended = trio.Event()
        self.began = trio.Event()

    @property
    def progress(self) -> tuple[float, int]:
        return 0.0, self.sent

    def reset(self, reason: str) -> None:
        self.reason = reason
        self.ended.set()

    async def handle(self, places: HandlerPlaces) -> None:
        stream: Any = self
        async with places.of(stream):
            self.began.set()
            await self.ended.wait()


async def start(nursery: trio.Nursery, places: HandlerPlaces, *streams: FakeStream) -> None:
    for stream in streams:
        nursery.start_soon(stream.handle, places)
        await wait_all_tasks_blocked()


def running(*streams: FakeStream) -> int:
    return sum(stream.began.is_set() and not stream.ended.is_set() for stream in streams)


@pytest.mark.parametrize("other", ["net", "another"])
@pytest.mark.parametrize("active", [False, True])
async def test_one_peer_does_not_keep_another_waiting(other: str, active: bool) -> None:
    places = HandlerPlaces(4)
    hogs = [FakeStream("hog") for _ in range(20)]
    guest = FakeStream("guest", other)

    async def trickle() -> None:
        while True:
            await trio.sleep(0.1)
            for hog in hogs:
                hog.sent += 1

    async with trio.open_nursery() as nursery:
        await start(nursery, places, *hogs)
        assert running(*hogs) == 4
        if active:
            nursery.start_soon(trickle)
        await start(nursery, places, guest)
        with trio.fail_after(5):
            await guest.began.wait()
        assert running(*hogs, guest) == 4
        assert [hog.reason for hog in hogs if hog.reason] == [
            "its place was needed by somebody who had none"
        ]
        nursery.cancel_scope.cancel()
    assert places._running == len(places._places) == len(places._waiting) == 0


async def test_the_only_place_of_an_idle_peer_is_for_others_after_a_while() -> None:
    places = HandlerPlaces(1)
    idle, guest = FakeStream("idle"), FakeStream("guest")
    async with trio.open_nursery() as nursery:
        await start(nursery, places, idle, guest)
        with trio.fail_after(8):
            await guest.began.wait()
        guest.ended.set()


async def test_a_handler_that_is_at_work_keeps_its_place() -> None:
    places = HandlerPlaces(2)
    busy = [FakeStream("hog") for _ in range(2)]
    guest = FakeStream("guest")
    for stream in busy:
        stream.is_awaited = False
    async with trio.open_nursery() as nursery:
        await start(nursery, places, *busy, guest)
        await trio.sleep(100)
        assert not guest.began.is_set()
        assert not any(stream.reason for stream in busy)
        busy[0].ended.set()
        await guest.began.wait()
        busy[1].ended.set()
        guest.ended.set()


async def test_a_peer_does_not_break_its_own_streams_off() -> None:
    places = HandlerPlaces(1)
    first, second = FakeStream("peer"), FakeStream("peer")
    async with trio.open_nursery() as nursery:
        await start(nursery, places, first, second)
        await trio.sleep(100)
        assert not first.reason
        assert not second.began.is_set()
        first.ended.set()
        await second.began.wait()
        second.ended.set()


async def test_a_free_place_goes_to_who_has_fewest() -> None:
    places = HandlerPlaces(2)
    hogs = [FakeStream("hog") for _ in range(5)]
    guest = FakeStream("guest")
    async with trio.open_nursery() as nursery:
        await start(nursery, places, *hogs, guest)
        hogs[0].ended.set()
        await wait_all_tasks_blocked()
        assert guest.began.is_set()
        assert running(*hogs) == 1
        nursery.cancel_scope.cancel()


async def test_whoever_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    places = HandlerPlaces(1)
    busy, gone, last = FakeStream("a"), FakeStream("b"), FakeStream("c")

    async def until_cancelled() -> None:
        with trio.move_on_after(4):
            await gone.handle(places)

    async with trio.open_nursery() as nursery:
        await start(nursery, places, busy)
        busy.is_awaited = False
        nursery.start_soon(until_cancelled)
        await trio.sleep(5)
        assert not gone.began.is_set()
        await start(nursery, places, last)
        busy.ended.set()
        await last.began.wait()
        last.ended.set()
    assert places._running == len(places._places) == len(places._waiting) == 0


async def test_a_displaced_handler_ends_before_the_next_one_begins() -> None:
    places = HandlerPlaces(1)
    slow, guest = FakeStream("slow"), FakeStream("guest")
    slow.reset = lambda reason: setattr(slow, "reason", reason)  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await start(nursery, places, slow, guest)
        await trio.sleep(20)
        assert slow.reason
        assert not guest.began.is_set()
        slow.ended.set()
        await guest.began.wait()
        guest.ended.set()


@pytest.mark.parametrize("waiting", [1, 40])
async def test_many_keys_of_one_network_that_wait_do_not_come_before_another_network(
    waiting: int,
) -> None:
    """Each has a place or none, and none of them is idle; those in front could not get one."""
    places = HandlerPlaces(4)
    hogs = [FakeStream(f"hog {number}") for number in range(4 + waiting)]
    guest = FakeStream("guest", "another")

    async def trickle() -> None:
        while True:
            await trio.sleep(0.1)
            for hog in hogs:
                hog.sent += 1

    async with trio.open_nursery() as nursery:
        await start(nursery, places, *hogs)
        nursery.start_soon(trickle)
        await trio.sleep(10)
        await start(nursery, places, guest)
        with trio.fail_after(5):
            await guest.began.wait()
        assert running(*hogs, guest) == 4
        nursery.cancel_scope.cancel()
