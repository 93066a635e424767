"""Peers that know libp2p's messages and records alone, as go's and js's do."""

from __future__ import annotations

import pytest
import trio

from lattica.dht.config import DhtConfig
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Request,
    Response,
    decode_request,
    encode,
)
from lattica.dht.records.keys import provider_key
from lattica.errors import IncompleteReadError, NotStoredError
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_dht import MemoryDhtNet, memory_dht_net
from tests.support.doubles.memory_host import MemoryHost

KAD = "/ipfs/kad/1.0.0"
BEYOND = (MessageType.ADD_PROVIDERS, MessageType.REMOVE_PROVIDERS)


class Foreign:
    """A peer that keeps provider records and no others.

    Args:
        answers_next: it passes over what it does not know; otherwise it ends the stream.
    """

    def __init__(self, host: MemoryHost, *, answers_next: bool) -> None:
        self.host = host
        self.providers: dict[bytes, Contact] = {}
        self.seen: list[MessageType] = []
        self._answers_next = answers_next
        host.handle(KAD, self._serve, owner="foreign")

    async def _serve(self, stream: Stream) -> None:
        while True:
            try:
                request = decode_request(await stream.receive_message(MAX_MESSAGE))
            except IncompleteReadError:
                return
            self.seen.append(request.type)
            if request.type in BEYOND and self._answers_next:
                continue
            if request.type in (*BEYOND, MessageType.PUT_VALUE):
                stream.reset("not known")
                return
            if request.type is MessageType.ADD_PROVIDER:
                self.providers[request.key] = request.providers[0]
                continue
            found = self.providers.get(request.key)
            got = () if found is None else (found,)
            await stream.send_message(encode(Response(request.type, request.key, providers=got)))


def foreigners(net: MemoryDhtNet) -> list[Foreign]:
    return [Foreign(net.host(), answers_next=each) for each in (False, True)]


async def test_many_keys_are_provided_one_by_one_where_nobody_knows_more(autojump_clock):
    async with memory_dht_net() as net:
        peers = foreigners(net)
        dht = net.add(DhtConfig(protocol=KAD))
        for peer in peers:
            await peer.host.connect(dht._host.peer_id)
        await dht.wait_ready()
        keys = [f"key {number}" for number in range(200)]
        assert set((await dht.provide_many(keys)).values()) == {len(peers)}
        for peer in peers:
            assert set(peer.providers) == {provider_key(key) for key in keys}
            assert {contact.peer_id for contact in peer.providers.values()} == {dht._host.peer_id}
        assert await dht.withdraw(keys[0]) == 0
        # That is found out once; a stream that was kept may have ended for another reason.
        assert [sum(kind in BEYOND for kind in peer.seen) for peer in peers] == [2, 1]
        assert sum(dht._peers.junk.values()) == 0


async def test_whoever_refuses_a_value_is_asked_all_the_same(autojump_clock):
    async with memory_dht_net() as net:
        peers = foreigners(net)
        dht = net.add(DhtConfig(protocol=KAD))
        for peer in peers:
            await peer.host.connect(dht._host.peer_id)
        await dht.wait_ready()
        for _ in range(5):
            with pytest.raises(NotStoredError):
                await dht.put("key", 1)
            assert await dht.provide("thing") == len(peers)
        # Its addresses are said less and less often, as nobody takes them.
        await trio.sleep(3600.0)
        said = [sum(kind is MessageType.PUT_VALUE for kind in peer.seen) for peer in peers]
        assert max(said) < 40
        assert len(dht.peers()) == len(peers)


async def test_peers_that_have_failed_once_are_asked_where_there_are_no_others(autojump_clock):
    async with memory_dht_net() as net:
        other, dht = net.add(), net.add()
        await dht.wait_ready()
        await trio.sleep(1.0)
        ping = Request(MessageType.PING)
        hosts = net.hosts
        for host in hosts:
            host.is_reachable = False
        hosts[1].drop(hosts[0].peer_id)
        await trio.sleep(0.1)
        contact = Contact.of(other._host.peer_id)
        assert await dht._peers.ask(contact, ping) is None
        for host in hosts:
            host.is_reachable = True
        assert await dht.put("key", 1) == 1
