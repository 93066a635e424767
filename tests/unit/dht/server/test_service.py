"""What questions cost, on hosts in memory."""

from __future__ import annotations

import secrets

import trio

from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import MAX_MESSAGE, MessageType, Request, encode
from lattica.nat.mux.connection import Connection
from tests.support.doubles.memory_dht import memory_dht_net


async def test_questions_about_many_keys_are_charged(monkeypatch):
    """Those of eight hosts, of a thousand keys each, were answered in one pass of the loop."""
    charged: list[tuple[str, int]] = []
    charge = Connection.charge

    async def noted(self, what: str, cost: int) -> None:
        charged.append((what, cost))
        await charge(self, what, cost)

    monkeypatch.setattr(Connection, "charge", noted)
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
    (charged_for_many,) = [cost for what, cost in charged if what == "dht"]
    assert charged_for_many == 9  # of 37 KB
