"""Sybils beside real nodes on loopback: IDs that were made to be nearest to a key. What is stored
at that key is found all the same.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import trio

from lattica import Node
from lattica.dht.config import PROTOCOL
from lattica.dht.kademlia.config import TableConfig
from lattica.dht.kademlia.contact import Contact, common_prefix, key_of
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    Request,
    Response,
    decode_request,
    encode,
)
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.dht.records.keys import provider_key, value_key
from lattica.dht.server.core import Asker, ServerCore
from lattica.dht.store.records import RecordStore
from lattica.errors import IncompleteReadError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream
from tools.bench.dht.real import RealNetwork, Trial, figures, real_network, try_all
from tools.bench.figures.stats import Measurement

SYBILS = 22
"""Next to each key: as many as are looked for (k), and some."""
_INTRODUCED = 3
"""Honest nodes that each connects to; others hear of it."""
_ASKERS = 8
"""Clients, at whom nothing is stored."""
_NEARER = 3
"""Leading bits by which they are nearer to it than the nearest honest node."""
_NAMES = tuple(f"attacked {number}" for number in range(32))
"""Of which the ones are attacked that are farthest from all honest nodes: it takes fewer draws."""


def _key_of(peer_id: PeerId) -> int:
    return key_of(peer_id.to_bytes())


def _bits(wire: bytes, peers: Iterable[PeerId]) -> int:
    """Leading bits that the nearest of some peers shares with where a key is kept."""
    return max(common_prefix(_key_of(peer), key_of(wire)) for peer in peers)


def _draw(wire: bytes, honest: Iterable[PeerId]) -> list[Identity]:
    """Identities nearer to where a key is kept than all honest ones."""
    bits = _bits(wire, honest) + _NEARER
    found: list[Identity] = []
    while len(found) < SYBILS:
        drawn = Identity.generate()
        if _bits(wire, [drawn.peer_id]) >= bits:
            found.append(drawn)
    return found


class _SybilCore(ServerCore):
    """Shows what it was given to who gave it, so that it seems to be kept, and to nobody else; and
    tells of nobody but its like.
    """

    def __init__(self, own: PeerId, like: Iterable[Contact]) -> None:
        table = RoutingTable(_key_of(own), TableConfig(bucket=2 * SYBILS), 0.0)
        for contact in like:
            table.answered(contact, None, 0.0)
        super().__init__(table, RecordStore())
        self._givers: defaultdict[bytes, set[PeerId]] = defaultdict(set)

    def answer(self, request: Request, asker: Asker, now: float) -> Response | None:
        keys = (request.key, *request.keys)
        if request.record is not None or request.providers:
            for key in keys:
                self._givers[key].add(asker.peer_id)
        answer = super().answer(request, asker, now)
        if answer is None or asker.peer_id in self._givers[request.key]:
            return answer
        return replace(answer, record=None, providers=())

    async def serve(self, stream: Stream) -> None:
        """Answer a peer's questions."""
        while True:
            try:
                request = decode_request(await stream.receive_message(MAX_MESSAGE))
            except IncompleteReadError:
                return
            answer = self.answer(request, Asker(stream.peer_id, None), time.time())
            if answer is not None:
                await stream.send_message(encode(answer))


async def _have_sybils_join(
    network: RealNetwork, servers: Sequence[Node], wires: Iterable[bytes], rng: random.Random
) -> None:
    """Next to these keys."""
    ids = [node.peer_id for node in servers]
    like: list[Contact] = []
    sybils: list[Node] = []
    for wire in wires:
        for identity in await trio.to_thread.run_sync(_draw, wire, ids):
            sybil = await network.add(identity, **{"dht.enabled": False})
            sybils.append(sybil)
            like.append(Contact.of(sybil.peer_id, sybil.addrs))
    for sybil in sybils:
        sybil.handle(PROTOCOL, _SybilCore(sybil.peer_id, like).serve)
        for node in rng.sample(servers, _INTRODUCED):
            await sybil.connect(node.addrs)
    members = {sybil.peer_id for sybil in sybils}
    for node in servers:
        while members.isdisjoint(peer.peer_id for peer in node.dht.peers()):  # noqa: ASYNC110
            await trio.sleep(0.1)


async def _attack(nodes: int, rng: random.Random) -> AsyncIterator[Trial]:
    """Put and provide where all that are nearest are Sybils; clients look for both.

    Where nobody looks behind them (`SizeEstimator.is_crowded` is never true), none finds anything.
    """
    async with real_network(nodes) as network:
        servers = tuple(network.nodes)
        askers = [await network.add(**{"dht.mode": "client"}) for _ in range(_ASKERS)]
        for node in network.nodes:
            while node.dht.status().network_size is None:  # noqa: ASYNC110
                await trio.sleep(0.1)
        ids = [node.peer_id for node in servers]
        name = min(_NAMES, key=lambda name: _bits(value_key(name), ids))
        thing = min(_NAMES, key=lambda name: _bits(provider_key(name), ids))
        await _have_sybils_join(network, servers, (value_key(name), provider_key(thing)), rng)
        writer, provider = rng.sample(servers, 2)

        async def put() -> bool:
            return await writer.dht.put(name, 1) > 0

        async def provide() -> bool:
            return await provider.dht.provide(thing) > 0

        def get(asker: Node) -> Callable[[], Awaitable[bool]]:
            async def operation() -> bool:
                found = await asker.dht.get(name, owner=writer.peer_id)
                return found is not None and found.value == 1

            return operation

        def find(asker: Node) -> Callable[[], Awaitable[bool]]:
            async def operation() -> bool:
                async with asker.dht.find_providers(thing, count=1) as providers:
                    return [found.peer_id async for found in providers] == [provider.peer_id]

            return operation

        yield await try_all("eclipse-put", [put])
        yield await try_all("eclipse-provide", [provide])
        yield await try_all("eclipse-get", [get(node) for node in askers])
        yield await try_all("eclipse-find", [find(node) for node in askers])


async def _measure(nodes: int, rng: random.Random) -> list[Measurement]:
    what = (
        f"{nodes} servers in one process on loopback, {SYBILS} Sybils nearer than all of them to "
        f"each of two keys, {_ASKERS} clients that ask one after another"
    )
    found: list[Measurement] = []
    async for trial in _attack(nodes, rng):
        found += figures(trial, what)
    return found


def run_eclipse(nodes: int, seed: int) -> list[Measurement]:
    """Every figure of it."""
    return trio.run(_measure, nodes, random.Random(seed))
