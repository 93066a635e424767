"""Nodes of a network that say by which relays they are reached are connected to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from lattica.compat.wire.circuits import Circuits, encode_circuit
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId

NETWORK = "/cluster"
OWN, RELAY, CONNECTED, OTHER = (Identity.generate().peer_id for _ in range(4))


def circuit(peer: PeerId) -> str:
    return f"/ip4/192.0.2.1/tcp/4000/p2p/{RELAY}/p2p-circuit/p2p/{peer}"


class Node:
    """As much of one as the topic needs."""

    def __init__(self) -> None:
        self.told, self.messages = trio.open_memory_channel[Any](8)
        self.peer_id = OWN
        self.addrs = ()
        self.config = SimpleNamespace(
            swarm=SimpleNamespace(identify=SimpleNamespace(protocol_version=NETWORK))
        )
        self.remembered: list[PeerId] = []
        self.dialed: list[PeerId] = []
        self.swarm = SimpleNamespace(
            registry=SimpleNamespace(by_peer={CONNECTED: []}),
            address_book=SimpleNamespace(add=lambda peer, *_: self.remembered.append(peer)),
            wait_changed=trio.sleep_forever,
        )

    def topic(self, name: str) -> Any:
        return self

    @asynccontextmanager
    async def subscribe(self, limit: int) -> AsyncIterator[Any]:
        yield self.messages

    async def connect(self, peer: PeerId) -> None:
        self.dialed.append(peer)
        await trio.sleep_forever()

    async def tell(self, source: PeerId, addr: str, network: str = NETWORK) -> None:
        data = encode_circuit(addr, network)
        await self.told.send(SimpleNamespace(source=source, data=data))
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def listening() -> AsyncIterator[Node]:
    node: Any = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Circuits(node).run)
        yield node
        nursery.cancel_scope.cancel()


async def test_who_says_where_it_is_is_dialed_once() -> None:
    async with listening() as node:
        await node.tell(OTHER, circuit(OTHER))
        await node.tell(OTHER, circuit(OTHER))
        assert node.dialed == [OTHER]
        assert node.remembered == [OTHER, OTHER]


async def test_others_are_not() -> None:
    async with listening() as node:
        await node.tell(CONNECTED, circuit(CONNECTED))
        await node.tell(OWN, circuit(OWN))
        await node.tell(OTHER, circuit(OTHER), "/another")
        await node.tell(OTHER, circuit(CONNECTED))  # of somebody else
        await node.tell(OTHER, f"/ip4/192.0.2.1/tcp/4000/p2p/{OTHER}")  # not by a relay
        assert node.dialed == []


async def test_a_crowd_is_dialed_a_few_at_a_time() -> None:
    async with listening() as node:
        for peer in (Identity.generate().peer_id for _ in range(50)):
            await node.tell(peer, circuit(peer))
        assert len(node.dialed) == 8
