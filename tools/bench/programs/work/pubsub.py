"""How fast messages of a topic get from one process to another, whatever implements it.

The subscriber says in a second topic how many have come, and the publisher runs ahead of that by so
many at most: implementations without backpressure drop what is more.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

CASE = "publish-1KiB"
TOPIC, ACKS = "bench", "bench-acks"
EVERY = 16
"""Messages between two acknowledgements."""
PAYLOAD = os.urandom(bc.KIB)

Publish = Callable[[str, bytes], Awaitable[object]]
Connect = Callable[[], Awaitable[None]]


async def subscriber(messages: AsyncIterator[bytes], publish: Publish) -> None:
    """Count what comes, without end."""
    count = 0
    async for _ in messages:
        count += 1
        if count % EVERY == 0:
            await publish(ACKS, count.to_bytes(8, "big"))


async def publisher(
    child: bc.Child,
    job: bc.Job,
    publish: Publish,
    acks: AsyncIterator[bytes],
    note: str,
    *,
    ahead: int,
) -> None:
    """Publish, and report the messages a second that have come."""
    acked = 0
    news = trio.Event()

    async def listen() -> None:
        nonlocal acked, news
        async for ack in acks:
            acked = max(acked, int.from_bytes(ack, "big"))
            news.set()
            news = trio.Event()

    async def send() -> None:
        sent = 0
        while True:
            while sent - acked >= ahead:
                await news.wait()
            await publish(TOPIC, PAYLOAD)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(send)
        with trio.fail_after(30):
            await news.wait()
        await trio.sleep(job.warmup)
        await news.wait()
        begun, before = time.perf_counter(), acked
        await trio.sleep(job.seconds)
        await news.wait()
        rate = (acked - before) / (time.perf_counter() - begun)
        child.result({CASE: rate}, note, acked * len(PAYLOAD))
