"""A ticket that is asked for right after the start has what there is to be found out soon."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lattica.config import NodeConfig
from lattica.content import Publisher, Ticket
from lattica.facades.aio import AsyncLattica
from lattica.facades.blocking import Lattica
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig
from lattica.node import Node

CONFIG = NodeConfig(
    swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)),
    nat=TraversalConfig(port_mapping=PortMappingConfig(enabled=False)),
)


def relay_config() -> NodeConfig:
    server = RelayServerConfig(enabled=True, limits=RelayLimits(open_to_strangers=True))
    return replace(CONFIG, nat=replace(CONFIG.nat, relay_server=server))


def config_with(*relays: str) -> NodeConfig:
    return replace(CONFIG, nat=replace(CONFIG.nat, relay=RelayClientConfig(relays=relays)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    return path


def leads_through_a_relay(ticket: Ticket) -> bool:
    return any(kind_of(addr) is Kind.CIRCUIT for addr in ticket.addrs)


def test_of_both_facades(file: Path):
    with Lattica(relay_config()) as relay:
        config = config_with(*map(str, relay.addrs))
        with Lattica(config) as node:
            ticket = node.publish(file)
        assert leads_through_a_relay(ticket)
        assert ticket.can_improve == ()

        async def publish() -> Ticket:
            async with AsyncLattica(config) as node:
                return await node.publish(file)

        assert leads_through_a_relay(asyncio.run(publish()))


async def test_without_an_answer_it_says_what_is_missing(file: Path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        relay = Identity.generate().peer_id
        addr = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{relay}"
        async with Node(config_with(addr)) as node, Publisher(node) as publisher:
            ticket = await publisher.publish(file, announce_timeout=0.2)
            assert ticket.addrs
            assert not leads_through_a_relay(ticket)
            [reason] = ticket.can_improve
            assert str(relay) in reason
            assert Ticket.parse(str(ticket)) == ticket


async def test_without_relays_nobody_waits(file: Path):
    async with Node(CONFIG) as node, Publisher(node) as publisher:
        assert (await publisher.publish(file)).can_improve == ()
        assert node.announcing == ()
