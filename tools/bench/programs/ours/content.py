"""Ours, the work on content; part of `impl_lattica.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lattica.content import Publisher, fetch
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import content as work
else:
    import bench_child as bc
    from work import content as work

CASES = work.CASES


async def serve(child: bc.Child, node: Node, port: int) -> None:
    """The publisher; its address is a ticket."""
    await trio.to_thread.run_sync(work.make_file)
    async with Publisher(node) as publisher:
        child.ready(str(await publisher.publish(work.FILE)), port)
        await trio.sleep_forever()


async def run_client(child: bc.Child, job: bc.Job, node: Node) -> None:
    if job.case == work.PUBLISH:
        watch = work.Stopwatch()
        async with Publisher(node) as publisher:
            await publisher.publish(work.FILE)
            child.result(watch.published(), "lattica: SHA-256 in threads, files in place")
    watch = work.Stopwatch()
    result = await fetch(node, job.addr, work.OUT)
    if result.bytes_fetched != work.SIZE:
        raise AssertionError(f"{result.bytes_fetched} bytes were fetched")
    child.result(watch.fetched(), "lattica: TCP, encrypted, SHA-256", work.SIZE)
