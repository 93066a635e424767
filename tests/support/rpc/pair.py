"""A node that serves, and one that calls it, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lattica.rpc import Rpc, RpcConfig, open_rpc
from tests.support.doubles.memory_host import MemoryHost, MemoryNet, memory_net
from tests.support.rpc.services import Workshop


@dataclass
class Pair:
    net: MemoryNet
    server_host: MemoryHost
    client_host: MemoryHost
    server: Rpc
    client: Rpc
    workshop: Workshop
    stub: Workshop

    def lose(self) -> None:
        """Cut the connection."""
        self.client_host.drop(self.server_host.peer_id)


@asynccontextmanager
async def rpc_pair(
    config: RpcConfig | None = None, client_config: RpcConfig | None = None
) -> AsyncIterator[Pair]:
    async with memory_net() as net:
        server_host, client_host = net.host(), net.host()
        async with (
            open_rpc(server_host, config) as server,
            open_rpc(client_host, client_config or config) as client,
        ):
            workshop = Workshop()
            server.serve(workshop)
            stub = client.stub(server_host.peer_id, Workshop)
            yield Pair(net, server_host, client_host, server, client, workshop, stub)
