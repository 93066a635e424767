"""Where Sybils are the nearest of a key, what is stored and found is at honest peers, too."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import trio

from lattica.dht.client.peers import Peers
from lattica.dht.client.providing.providing import Providing
from lattica.dht.client.reading import Reader
from lattica.dht.client.writing import Writer
from lattica.dht.config import DhtConfig
from lattica.dht.kademlia.contact import Contact, common_prefix, key_of
from lattica.dht.kademlia.messages import MessageType, Request, Response
from lattica.nat.base.keys.identity import Identity
from tests.support.dht.kademlia import StillNet, contact

KEY = b"\x12\x20" + bytes(32)
TARGET = key_of(KEY)
OWN = Identity.generate().peer_id


class AttackedNet:
    """Honest peers, and Sybils next to one key who know each other alone, and keep nothing."""

    def __init__(self, sybils: int) -> None:
        self.net = StillNet(250, 3)
        nearest = self.net.nearest(TARGET, 1)[0] ^ TARGET
        rng = random.Random(1)
        self.sybils = [contact(TARGET ^ rng.randrange(nearest // 8)) for _ in range(sybils)]
        self.kept: dict[int, set[bytes]] = {}
        for one in self.net.contacts:
            table = self.net.tables[one.key]
            for sybil in self.sybils:
                table.answered(sybil, None, 0.0)

    def peers(self) -> Peers:
        """As one more node has them, which has looked around a little."""
        host = SimpleNamespace(peer_id=OWN)
        ties = SimpleNamespace(met_at=lambda _: None)
        peers = Peers(host, ties, DhtConfig())
        for one in self.net.contacts[:100]:
            peers.table.answered(one, None, 0.0)
        peers.ask = self.ask  # type: ignore[method-assign, assignment]
        return peers

    async def ask(self, peer: Contact, *requests: Request) -> list[Response | None]:
        await trio.lowlevel.checkpoint()
        return [self.answer(peer, request) for request in requests]

    def answer(self, peer: Contact, request: Request) -> Response | None:
        table = self.net.tables.get(peer.key)
        mine = (Contact.of(OWN),)
        kept = self.kept.setdefault(peer.key, set())
        if request.type is MessageType.ADD_PROVIDER:
            kept.add(request.key)
            return None
        if request.type is MessageType.REMOVE_PROVIDERS:
            kept.difference_update(request.keys)
            return Response(request.type, done=b"\1")
        says_so = request.type is MessageType.GET_PROVIDERS and request.key in kept
        providers = mine if says_so else ()
        if table is None:
            return Response(request.type, request.key, None, tuple(self.sybils[:20]), providers)
        near = table.closest(key_of(request.key), 20)
        return Response(request.type, request.key, None, tuple(near), providers)

    @property
    def honest_holders(self) -> set[int]:
        return {key for key, kept in self.kept.items() if kept and key in self.net.tables}


async def looked_around(net: AttackedNet) -> Peers:
    peers = net.peers()
    rng = random.Random(2)
    for _ in range(10):
        raw = rng.randbytes(32)
        request = Request(MessageType.FIND_NODE, raw)
        await peers.look_up(key_of(raw), request, is_drawn=True)
    assert peers.crowded == 0
    return peers


@pytest.mark.parametrize("sybils", [0, 60])
async def test_a_record_is_stored_and_found_behind_the_sybils(autojump_clock, sybils):
    net = AttackedNet(sybils)
    peers = await looked_around(net)
    reader, writer = Reader(peers, (), lambda: 0.0), Writer(peers)
    providing = Providing(
        peers, reader, writer, own=lambda: Contact.of(OWN), on_provided=lambda _: None
    )
    honest_then: list[int] = []

    def on_held(count: int, is_enough: bool) -> None:
        if is_enough:
            honest_then.append(len(net.honest_holders))

    held = await providing.provide(KEY, on_held)
    assert peers.crowded == (sybils > 0)
    assert honest_then[0] >= (3 if sybils else 5)
    assert len(set(net.net.nearest(TARGET, 20)) & net.honest_holders) >= 15
    if not sybils:
        assert held >= 20
        # Who was given it early forgets it, too.
        await providing.withdraw(KEY)
        assert net.honest_holders == set()
        return
    # The Sybils forget it.
    for sybil in net.sybils:
        net.kept.pop(sybil.key, None)
    other = await looked_around(net)
    found: list[Contact] = []

    def take(provider: Contact) -> bool:
        found.append(provider)
        return True

    await Reader(other, (), lambda: 0.0).providers(KEY, take)
    assert [c.peer_id for c in found] == [OWN]
    assert other.crowded <= 1


async def test_the_region_is_looked_into_while_the_nearest_still_answer(autojump_clock):
    """It was begun when the last of the nearest had answered: two walks, one after the other."""
    net = AttackedNet(40)
    peers = await looked_around(net)
    nearest = min(net.sybils[:20], key=lambda sybil: sybil.key ^ TARGET)
    answered: dict[int, float] = {}

    async def ask(peer: Contact, *requests: Request) -> list[Response | None]:
        if peer == nearest:
            await trio.sleep(0.9)
        answers = await net.ask(peer, *requests)
        answered.setdefault(peer.key, trio.current_time())
        return answers

    peers.ask = ask  # type: ignore[method-assign, assignment]
    lookup = await peers.look_up(TARGET, Request(MessageType.GET_PROVIDERS, KEY))
    found = {contact.key for contact in lookup.closest()}
    honest = set(net.net.nearest(TARGET, 20))
    assert honest | {nearest.key} <= found
    assert all(answered[key] < answered[nearest.key] for key in honest)


async def test_what_a_wide_lookup_finds_is_in_the_region_and_all_are_asked(autojump_clock):
    net = AttackedNet(40)
    peers = await looked_around(net)
    asked: list[int] = []
    lookup = await peers.look_up(
        TARGET,
        Request(MessageType.GET_PROVIDERS, KEY),
        lambda _, contact, answers: asked.append(contact.key),
    )
    honest = [c for c in lookup.closest() if c.key in net.net.tables]
    first = peers.sizes.region(TARGET, [sybil.key for sybil in net.sybils])[0]
    assert all(common_prefix(c.key, TARGET) >= first for c in honest)
    assert {c.key for c in lookup.closest()} <= set(asked)
    assert len(asked) == len(set(asked))
    # All honest peers of the region are, though the very nearest are behind the Sybils.
    assert set(net.net.nearest(TARGET, 20)) <= set(asked)
    found = {contact.key for contact in lookup.closest()}
    assert {key for key in asked if common_prefix(key, TARGET) >= first} <= found
