"""Fetching through relays that cut every circuit after a few bytes, as libp2p's do by default."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from lattica import Node
from lattica.config import NodeConfig
from lattica.content.download.fetcher import fetch
from lattica.content.download.options import FetchOptions
from lattica.content.events import Retrying
from lattica.content.publish.server import Publisher
from lattica.content.ticket import Ticket
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.config import KIB, MIB, SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import (
    RelayLimits,
    RelayServerConfig,
    StrangerLimits,
)

LISTEN = ("/ip4/127.0.0.1/tcp/0",)


def relay_node(**limits: Any) -> Node:
    server = RelayServerConfig(
        enabled=True,
        limits=RelayLimits(
            open_to_strangers=True, for_strangers=StrangerLimits(**limits), strangers_rate=0
        ),
    )
    return Node(
        NodeConfig(swarm=SwarmConfig(listen=LISTEN), nat=TraversalConfig(relay_server=server))
    )


def peer_node(relay: Node, listen: tuple[str, ...] = LISTEN) -> Node:
    return Node(
        NodeConfig(
            swarm=SwarmConfig(listen=listen),
            nat=TraversalConfig(
                relay=RelayClientConfig(relays=tuple(map(str, relay.addrs))),
                paths=PathConfig(enabled=False),
                punch=PunchConfig(enabled=False),
            ),
        )
    )


async def fetch_through(
    relay: Node, source: Path, out: Path, seen: list[Any], **options: Any
) -> Node:
    """Fetch by relayed addresses only."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(peer_node(relay))
        await provider.wait_reachable(timeout=60)
        publisher = await stack.enter_async_context(Publisher(provider))
        ticket = await publisher.publish(source)
        relayed = [addr for addr in provider.addrs if kind_of(addr) is Kind.CIRCUIT]
        assert relayed
        ticket = Ticket.make(ticket.cid, provider.peer_id, relayed)
        fetcher = await stack.enter_async_context(peer_node(relay, listen=()))
        await fetch(fetcher, ticket, out, progress=seen.append, options=FetchOptions(**options))
    return provider


@pytest.mark.timeout(120)
async def test_what_one_circuit_does_not_carry_comes_by_several(tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(random.Random(3).randbytes(2 * MIB + 12345))
    seen: list[Any] = []
    async with relay_node(data=128 * KIB, duration=120.0, rate=0) as relay:
        with trio.fail_after(100):
            await fetch_through(relay, source, tmp_path / "out", seen, first_delay=0.01)
        stats = relay.traversal.relay_service
        assert stats is not None
        circuits = stats.stats.circuits_total
    assert (tmp_path / "out" / "weights.bin").read_bytes() == source.read_bytes()
    # 17 circuits would do if nothing else went through them and nothing was lost.
    assert circuits <= 40
    lost = [event.error for event in seen if isinstance(event, Retrying)]
    assert lost
    assert all("allows 131072 bytes each way and 120 s for each circuit" in text for text in lost)
