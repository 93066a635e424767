"""Calls between whole nodes, over every transport."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from lattica import Node
from lattica.config import load_config
from lattica.errors import LocalProtocolError
from lattica.rpc import UnavailableError, UnimplementedError
from tests.support.rpc.services import Workshop


@asynccontextmanager
async def nodes(listen: str) -> AsyncIterator[tuple[Node, Node]]:
    config = load_config(overrides={"listen": (listen,), "nat.port_mapping.enabled": False})
    async with Node(config) as server, Node(config) as client:
        await client.connect(server.addrs[0])
        yield server, client


@pytest.mark.parametrize(
    "listen",
    ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/udp/0/quic-v1/noise"],
)
async def test_calls(listen: str) -> None:
    async with nodes(listen) as (server, client):
        server.rpc.serve(Workshop())
        stub = client.rpc.stub(server.peer_id, Workshop)
        assert await stub.shout("a") == "A"
        assert [number async for number in stub.numbers(3)] == [0, 1, 2]
        array = await stub.double(np.ones((1000, 1000)))
        assert array.sum() == 2_000_000
        assert (await stub.who())["path"].startswith("direct-")  # type: ignore[call-arg]
        # Both ways on one connection.
        client.rpc.serve(Workshop())
        assert await server.rpc.stub(str(client.peer_id), Workshop).shout("b") == "B"


async def test_a_node_without_services() -> None:
    async with nodes("/ip4/127.0.0.1/tcp/0") as (server, client):
        with pytest.raises(UnimplementedError) as raised:
            await client.rpc.stub(server.peer_id, Workshop).shout("a")
        assert not raised.value.may_have_run
        stub = client.rpc.stub(server.peer_id, Workshop)
        server.rpc.serve(Workshop())
        assert await stub.shout("a") == "A"


async def test_rpc_ends_with_its_node() -> None:
    async with nodes("/ip4/127.0.0.1/tcp/0") as (server, client):
        server.rpc.serve(Workshop())
        stub = client.rpc.stub(server.peer_id, Workshop)
        assert await stub.shout("a") == "A"
    with pytest.raises(LocalProtocolError, match="while the node runs"):
        Node(server.config).rpc  # noqa: B018
    with pytest.raises((UnavailableError, LocalProtocolError)):
        await stub.shout("a")


def test_settings() -> None:
    config = load_config(overrides={"rpc.call_timeout": 5.0})
    assert config.rpc.call_timeout == 5.0
    assert dataclasses.replace(config.rpc, max_threads=3).max_threads == 3
    with pytest.raises(Exception, match=r"rpc\.max_threads"):
        load_config(overrides={"rpc.max_threads": 0})
