"""What questions cost, on hosts in memory."""

from __future__ import annotations

import secrets

import pytest
import trio

from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Record,
    Request,
    decode_response,
    encode,
)
from lattica.dht.records.keys import value_key
from lattica.dht.records.signed_value import encode_values, seal_value
from lattica.nat.base.keys.identity import Identity
from lattica.nat.mux.connection import Connection
from tests.support.doubles.memory_dht import memory_dht_net


@pytest.fixture
def charged(monkeypatch) -> list[int]:
    """What questions have cost."""
    costs: list[int] = []
    charge = Connection.charge

    async def noted(self, what: str, cost: int) -> None:
        if what == "dht":
            costs.append(cost)
        await charge(self, what, cost)

    monkeypatch.setattr(Connection, "charge", noted)
    return costs


async def test_questions_about_many_keys_are_charged(charged):
    """Those of eight hosts, of a thousand keys each, were answered in one pass of the loop."""
    async with memory_dht_net() as net:
        node, client = net.add(), net.host()
        with trio.fail_after(60):
            await node._loaded.wait()
            server = node._host.peer_id
            await client.connect(server)
            async with await client.open_stream(server, node.config.protocol) as stream:
                for count in (1, 1000):
                    request = Request(
                        MessageType.ADD_PROVIDERS,
                        providers=(Contact.of(client.peer_id, [client.addr]),),
                        keys=tuple(secrets.token_bytes(34) for _ in range(count)),
                    )
                    await stream.send_message(encode(request))
                    await stream.receive_message(MAX_MESSAGE)
            await node.aclose()
    assert charged == [9]  # of 37 KB


async def test_signed_values_are_charged_and_checked_a_few_at_a_time(charged):
    """Four hundred in one message were checked in one pass of the loop, 40 ms."""
    key = value_key("key")
    owners = [Identity.generate() for _ in range(70)]
    values = [seal_value(o, key, b"", b"\xc0", sequence=1, expires=1 << 42) for o in owners]
    async with memory_dht_net() as net:
        node, client = net.add(), net.host()
        with trio.fail_after(60):
            await node._loaded.wait()
            await client.connect(node._host.peer_id)
            record = Record(key, encode_values(values))
            request = Request(MessageType.PUT_VALUE, key, record)
            async with await client.open_stream(node._host.peer_id, node.config.protocol) as stream:
                await stream.send_message(encode(request))
                answer = decode_response(await stream.receive_message(MAX_MESSAGE), request)
            await node.aclose()
    assert charged[1:] == [32, 32, 6]
    assert answer.record == record
