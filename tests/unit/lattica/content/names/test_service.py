"""What the DHT is told of a node's names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameTarget, target_data
from lattica.content.names.service import open_names
from lattica.errors import NoDhtPeersError
from lattica.nat.base.keys.identity import Identity

TARGETS = [NameTarget(Cid.of(bytes([number]))) for number in range(4)]


class SlowDht:
    """It takes a minute to be told of something."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def put(self, key: str, value: object, *, ttl: float) -> int:
        await trio.sleep(60)
        self.told.append(value)
        return 1


class FakeNode:
    config = SimpleNamespace(dht=SimpleNamespace(enabled=True), bootstrap=())

    def __init__(self, dht: SlowDht) -> None:
        self.identity = Identity.generate()
        self.peer_id = self.identity.peer_id
        self.dht = dht

    def handle(self, protocol: str, *_: object, **__: object) -> None:
        """It is asked for no names here."""

    unhandle = handle


async def test_it_is_told_one_after_the_other_and_last_what_was_said_last(autojump_clock):
    dht = SlowDht()
    node: Any = FakeNode(dht)
    async with open_names(node) as names:
        names.publish("model", TARGETS[0])
        await trio.sleep(1)
        for target in TARGETS[1:3]:
            names.publish("model", target)
        names.withdraw(TARGETS[2].cid)
        await trio.sleep(70)
        names.publish("model", TARGETS[3])
        await trio.sleep(1000)
        assert dht.told == [target_data(TARGETS[0]), target_data(None), target_data(TARGETS[3])]


async def test_what_the_dht_could_not_be_told_it_is_told_when_there_is_one(autojump_clock):
    """A node that started before its network was there told its names after 56 hours."""

    class LateDht(SlowDht):
        async def put(self, key: str, value: object, *, ttl: float) -> int:
            if trio.current_time() - start < 100:
                raise NoDhtPeersError("nobody is there")
            return await super().put(key, value, ttl=ttl)

    start = trio.current_time()
    dht = LateDht()
    node: Any = FakeNode(dht)
    async with open_names(node) as names:
        for number, target in enumerate(TARGETS[:3]):
            names.publish(f"model-{number % 2}", target)
            await trio.sleep(1)
        await trio.sleep(1000)
        assert sorted(map(str, dht.told)) == sorted(str(target_data(t)) for t in TARGETS[1:3])
