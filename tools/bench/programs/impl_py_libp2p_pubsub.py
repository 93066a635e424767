"""py-libp2p's GossipSub, as its users get it; part of `impl_py_libp2p.py`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IHost, ISubscriptionAPI
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import pubsub as work
else:
    import bench_child as bc
    from work import pubsub as work

CASE = work.CASE


@contextlib.asynccontextmanager
async def _pubsub(host: IHost) -> AsyncIterator[Pubsub]:
    router = GossipSub(
        protocols=[TProtocol("/meshsub/1.1.0")],
        degree=8,
        degree_low=6,
        degree_high=12,
        # By default it drops what is more than 10 messages a second.
        max_messages_per_topic_per_second=1e9,
    )
    pubsub = Pubsub(host, router)
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield pubsub


async def serve(child: bc.Child, host: IHost, addr: str, port: int) -> None:
    """The subscriber."""
    async with _pubsub(host) as pubsub:
        messages = await pubsub.subscribe(work.TOPIC)
        child.ready(addr, port)
        await work.subscriber(_data(messages), pubsub.publish)


async def run_client(
    child: bc.Child, job: bc.Job, host: IHost, connect: work.Connect, note: str
) -> None:
    """The publisher."""
    async with _pubsub(host) as pubsub:
        acks = await pubsub.subscribe(work.ACKS)
        await connect()
        while not pubsub.peer_topics.get(work.TOPIC):  # noqa: ASYNC110 - it has no event for it
            await trio.sleep(0.05)
        await trio.sleep(2.0)  # until the meshes are there
        # A subscription of its own holds 50 messages, and then drops without a word.
        await work.publisher(child, job, pubsub.publish, _data(acks), note, ahead=32)


async def _data(messages: ISubscriptionAPI) -> AsyncIterator[bytes]:
    while True:
        yield (await messages.get()).data
