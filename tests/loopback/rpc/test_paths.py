"""Calls through a relay, and while the path changes under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.rpc import open_rpc
from lattica.rpc.protocol.frames import CONTROL
from tests.support.doubles.swarm_host import SwarmHost
from tests.support.nets.relayed import relayed_pair
from tests.support.rpc.services import Workshop


async def test_calls_through_a_relay_go_over_to_the_direct_path() -> None:
    async with (
        relayed_pair() as pair,
        open_rpc(SwarmHost(pair.target)) as server,
        open_rpc(SwarmHost(pair.source)) as client,
    ):
        workshop = Workshop()
        server.serve(workshop)
        server.serve(Workshop(), name="Streams")
        target = pair.target.identity.peer_id
        stub = client.stub(target, Workshop)
        seen = await stub.who()  # type: ignore[call-arg]
        assert seen["path"] == "relayed"
        array = await stub.double(np.ones(500_000))
        assert array.sum() == 1_000_000

        done = trio.Event()
        counted = 0

        async def count() -> None:
            nonlocal counted
            while not done.is_set():
                await stub.count(counted)
                counted += 1

        slow: list[str] = []

        async def wait() -> None:
            slow.append(await stub.wait(0.5))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(count)
            nursery.start_soon(wait)
            stream = aiter(client.stub(target, "Streams").numbers(1_000_000))
            assert await anext(stream) == 0
            await pair.source.dial_fresh(target, pair.target.listen_addrs[0])
            with trio.fail_after(60):
                while (await stub.who())["path"] != "direct-tcp":  # type: ignore[call-arg]
                    await trio.sleep(0.01)
            assert await anext(stream) == 1  # it stays where it is
            # What is left on the old path is lost; what the session carries is not.
            before = counted
            pair.of_source.abort("the relay is gone")
            with trio.fail_after(60):
                while counted < before + 100 or not slow:
                    await trio.sleep(0.01)
            done.set()
        assert slow == ["waited"]
        assert len(workshop.ran) == counted
        assert (await stub.who())["path"] == "direct-tcp"  # type: ignore[call-arg]


class LateHost(SwarmHost):
    """Its service hears of what callers have sent when `begin` is set."""

    def __init__(self, swarm: Swarm) -> None:
        super().__init__(swarm)
        self.came, self.begin = trio.Event(), trio.Event()

    def handle(self, protocol: str, handler: StreamHandler, **options: Any) -> None:
        async def late(stream: Stream) -> None:
            self.came.set()
            await self.begin.wait()
            await handler(stream)

        super().handle(protocol, late if protocol == CONTROL else handler, **options)


async def test_a_first_call_is_not_lost_when_the_path_changes_before_the_server_knows_of_it() -> (
    None
):
    async with relayed_pair() as pair:
        host = LateHost(pair.target)
        async with open_rpc(host) as server, open_rpc(SwarmHost(pair.source)) as client:
            server.serve(Workshop())
            target = pair.target.identity.peer_id
            stub = client.stub(target, Workshop)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.count, 7)
                await host.came.wait()
                await pair.source.dial_fresh(target, pair.target.listen_addrs[0])
                await wait_all_tasks_blocked(0.01)
                host.begin.set()
            with trio.fail_after(60):
                while (await stub.who())["path"] != "direct-tcp":  # type: ignore[call-arg]
                    await trio.sleep(0.01)
