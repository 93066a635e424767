"""A program of a soak, in a host of the lab. JSON events on standard output.

    python -m tools.soak.member NAME OTHER,OTHER,… RELAY…

It does everything that a node can be asked for, a little at a time and over and over: calls others,
publishes files and fetches theirs, speaks on a topic, writes to a document, provides in the DHT.
What fails while a guest or a line is gone is counted, and done again with the next round.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lattica.config import NodeConfig
from lattica.content import FetchOptions, Publisher, Ticket, fetch
from lattica.dht.config import DhtConfig
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.node import Node
from tools.soak.in_use import in_use

LISTEN = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1/noise")
TOPIC, DOCUMENT = "soak", "soak"
FILE = 300_000
"""Bytes of a file that is published."""
KEPT = 3
"""Files that are published at a time."""
NAMES = 16
"""Registers and keys in turn: what a member writes is always the same few."""
TIMEOUT = 15.0
"""Seconds that a piece of work has."""
PAUSES = {"call": 0.5, "fetch": 3.0, "publish": 3.0, "speak": 0.5, "write": 8.0, "provide": 4.0}
"""Seconds between two of a kind, more or less."""
SAY_EVERY = 1.0


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


def identity_of(name: str) -> Identity:
    """A key that follows from the name: others know it beforehand."""
    return Identity(hashlib.sha256(f"soak: {name}".encode()).digest())


class Desk:
    """What a member serves to others by RPC."""

    def __init__(self) -> None:
        self.offers: list[Ticket] = []

    async def echo(self, data: bytes) -> bytes:
        return data

    async def offer(self) -> str:
        """The ticket of the newest file; empty while there is none."""
        return str(self.offers[-1]) if self.offers else ""


class Member:
    """One node at its work."""

    def __init__(self, node: Node, others: list[str], relays: list[str]) -> None:
        self._node = node
        self._desk = Desk()
        self._others = {name: identity_of(name).peer_id for name in others}
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        node.rpc.serve(self._desk)
        for peer in self._others.values():
            for relay in relays:
                node.add_address(peer, f"{relay}/p2p-circuit")

    async def run(self) -> None:
        async with Publisher(self._node) as publisher, trio.open_nursery() as nursery:
            self._publisher = publisher
            self._document = await self._node.store.open(DOCUMENT)
            nursery.start_soon(self._listen)
            for kind, function in (
                ("publish", self._publish), ("speak", self._speak), ("write", self._write),
                ("provide", self._provide),
            ):  # fmt: skip
                nursery.start_soon(self._over_and_over, kind, PAUSES[kind], function)
            for name, peer in self._others.items():
                stub = self._node.rpc.stub(peer, Desk, timeout=TIMEOUT)
                for kind, ask in (("call", self._call), ("fetch", self._fetch)):
                    counted = f"{kind}-guest" if name.startswith("guest") else kind
                    function = partial(ask, stub)
                    nursery.start_soon(self._over_and_over, counted, PAUSES[kind], function)
            await self._tell()

    async def _over_and_over(
        self, kind: str, pause: float, function: Callable[[int], Awaitable[None]]
    ) -> None:
        number = 0
        while True:
            await trio.sleep(pause * random.uniform(0.5, 1.5))
            number += 1
            try:
                with trio.fail_after(TIMEOUT):
                    await function(number)
            except (LatticaError, TimeoutError, trio.TooSlowError):
                self.failed[kind] += 1
            else:
                self.done[kind] += 1

    async def _call(self, stub: Any, number: int) -> None:
        data = number.to_bytes(8, "big") * random.choice((16, 16, 16, 16_000))
        if await stub.echo(data) != data:
            raise AssertionError("an echo came back changed")

    async def _fetch(self, stub: Any, number: int) -> None:
        ticket = await stub.offer()
        if not ticket:
            return
        folder = Path(tempfile.mkdtemp(dir="."))
        try:
            await fetch(self._node, ticket, folder, options=FetchOptions(give_up_after=TIMEOUT))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _write(self, number: int) -> None:
        self._document.registers[f"{self._node.peer_id}/{number % NAMES}"] = number
        await trio.lowlevel.checkpoint()

    async def _publish(self, number: int) -> None:
        file = Path("offers") / f"{number % (KEPT + 1)}.bin"
        file.parent.mkdir(exist_ok=True)
        if len(self._desk.offers) == KEPT:
            self._publisher.unpublish(self._desk.offers.pop(0))
        file.write_bytes(os.urandom(FILE))
        self._desk.offers.append(await self._publisher.publish(file))

    async def _speak(self, number: int) -> None:
        await self._node.topic(TOPIC).publish(os.urandom(random.choice((100, 100, 10_000))))

    async def _listen(self) -> None:
        async with self._node.topic(TOPIC).subscribe() as messages:
            async for _ in messages:
                self.done["hear"] += 1

    async def _provide(self, number: int) -> None:
        key = hashlib.sha256(f"{self._node.peer_id} {number % NAMES}".encode()).digest()
        await self._node.dht.provide(key)
        await self._node.dht.withdraw(key)

    async def _tell(self) -> None:
        while True:
            say(
                "sample",
                tasks=trio.lowlevel.current_statistics().tasks_living,
                peers=len(self._node.peers()),
                done=dict(self.done),
                failed=dict(self.failed),
                **in_use(),
            )
            await trio.sleep(SAY_EVERY)


async def run(name: str, others: str, relays: tuple[str, ...]) -> None:
    config = NodeConfig(
        swarm=SwarmConfig(listen=LISTEN),
        nat=TraversalConfig(relay=RelayClientConfig(relays=relays)),
        bootstrap=relays,
        dht=DhtConfig(enabled=True),
        data_dir=Path("data"),
    )
    async with Node(config, identity=identity_of(name)) as node:
        say("ready", peer_id=str(node.peer_id), addrs=[str(addr) for addr in node.addrs])
        await Member(node, others.split(","), [*relays]).run()


def main(name: str, others: str, *relays: str) -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    trio.run(run, name, others, relays)


if __name__ == "__main__":
    main(*sys.argv[1:])
