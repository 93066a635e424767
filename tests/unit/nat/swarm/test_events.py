"""Events: who gets which, and what happens to a subscriber who is slow."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.events import QUEUE_SIZE, EventBus, EventsLost, ListeningOn


def event(number: int) -> ListeningOn:
    return ListeningOn(Multiaddr(f"/ip4/127.0.0.1/tcp/{number}"))


async def rest(stream) -> list:
    return [event async for event in stream]


async def test_every_subscriber_gets_every_event_from_then_on():
    bus = EventBus()
    with bus.subscribe() as early:
        bus.publish(event(1))
        with bus.subscribe() as late:
            bus.publish(event(2))
            bus.close()
            assert await rest(early) == [event(1), event(2)]
            assert await rest(late) == [event(2)]


async def test_a_waiting_subscriber_is_woken_by_an_event_and_by_the_end():
    bus, seen = EventBus(), []
    async with trio.open_nursery() as nursery:

        async def listen():
            with bus.subscribe() as stream:
                seen.extend(await rest(stream))
            seen.append("end")

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        bus.publish(event(1))
        await wait_all_tasks_blocked()
        assert seen == []
        bus.close()
    assert seen == [event(1), "end"]


async def test_after_the_end_there_is_nothing():
    bus = EventBus()
    bus.close()
    with bus.subscribe() as stream:
        assert await rest(stream) == []


async def test_one_who_has_left_is_in_nobodys_way():
    bus = EventBus()
    with bus.subscribe() as stream:
        pass
    bus.publish(event(1))
    assert await rest(stream) == []
    bus.close()


async def test_the_queue_is_bounded_and_says_what_it_lost():
    bus = EventBus()
    with bus.subscribe() as stream, bus.subscribe() as other:
        seen_by_other = []
        for number in range(QUEUE_SIZE + 10):
            bus.publish(event(number))
            seen_by_other.append(await anext(other))
        assert [await anext(stream) for _ in range(5)] == [event(n) for n in range(5)]
        bus.publish(event(60000))
        bus.close()
        received = await rest(stream)
        assert received[:-2] == [event(n) for n in range(5, QUEUE_SIZE)]
        assert received[-2:] == [EventsLost(10), event(60000)]
        assert seen_by_other == [event(n) for n in range(QUEUE_SIZE + 10)]
        assert await rest(other) == [event(60000)]


async def test_a_loss_is_told_although_nothing_happens_afterwards():
    """Or a subscriber would wait for the next event, believing to know everything."""
    bus = EventBus()
    with bus.subscribe() as stream:
        for number in range(QUEUE_SIZE + 3):
            bus.publish(event(number))
        for number in range(QUEUE_SIZE):
            assert await anext(stream) == event(number)
        assert await anext(stream) == EventsLost(3)
        bus.publish(event(1))
        assert await anext(stream) == event(1)
        for number in range(QUEUE_SIZE + 2):
            bus.publish(event(number))
        bus.close()
        assert (await rest(stream))[QUEUE_SIZE:] == [EventsLost(2)]
