"""Ours, the work on topics; part of `impl_lattica.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from lattica.dht.topics.service.subscription import Subscription
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import pubsub as work
else:
    import bench_child as bc
    from work import pubsub as work

CASE = work.CASE


async def serve(child: bc.Child, node: Node, addr: str, port: int) -> None:
    """The subscriber."""
    async with node.topic(work.TOPIC).subscribe() as messages:
        child.ready(addr, port)
        await work.subscriber(_data(messages), _publisher(node))


async def run_client(child: bc.Child, job: bc.Job, node: Node, note: str) -> None:
    """The publisher."""
    async with node.topic(work.ACKS).subscribe() as acks:
        await node.topic(work.TOPIC).wait_peers()
        await work.publisher(child, job, _publisher(node), _data(acks), note, ahead=4096)


def _publisher(node: Node) -> work.Publish:
    topics = {name: node.topic(name) for name in (work.TOPIC, work.ACKS)}

    async def publish(name: str, data: bytes) -> None:
        await topics[name].publish(data)

    return publish


async def _data(messages: Subscription) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message.data
