"""A relay that is killed: its clients move to another one, and come back to the one that they know
when it runs again. What a relay serves besides."""

from __future__ import annotations

import trio

from lattica import Node
from tests.loopback.lattica.daemon.relay_process import client, is_at, relay_process

SERVED = {
    "/libp2p/circuit/relay/0.2.0/hop",
    "/libp2p/autonat/2/dial-request",
    "/lattica/kad/1.0.0",
    "/rendezvous/1.0.0",
    "/meshsub/1.2.0",
}


async def test_clients_of_a_killed_relay_go_to_another_one(tmp_path):
    async with (
        relay_process(tmp_path / "first", "--open") as first,
        relay_process(tmp_path / "second", "--open") as second,
        Node(client(first.addr, second.addr, patient=True)) as node,
    ):
        await node.wait_reachable(60)
        used, spare = (first, second) if is_at(node, first.addr) else (second, first)
        used.process.kill()
        with trio.fail_after(60):
            while not is_at(node, spare.addr):
                await trio.sleep(0.02)
        assert not is_at(node, used.addr)
        async with Node(client(spare.addr)) as caller:
            await caller.connect(f"{spare.addr}/p2p-circuit/p2p/{node.peer_id}", timeout=60)


async def test_clients_come_back_to_a_relay_that_was_killed_and_runs_again(tmp_path):
    async with relay_process(tmp_path, "--open") as relay:
        address, listen = relay.addr, relay.addr.partition("/p2p/")[0]
        settings = client(address, patient=True)
        node = Node(settings)
        async with node:
            await node.wait_reachable(60)
            (connection,) = node.swarm.registry
            with trio.fail_after(60):
                while not connection.known_protocols >= SERVED:
                    await trio.sleep(0.02)
            relay.process.kill()
            await relay.process.wait()
            with trio.fail_after(60):
                while is_at(node, address):
                    await trio.sleep(0.02)
            async with relay_process(tmp_path, "--open", listen=listen) as again:
                assert again.addr == address
                await node.wait_reachable(60)
                assert is_at(node, address)
