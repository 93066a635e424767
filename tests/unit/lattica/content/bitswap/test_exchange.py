"""What Bitswap keeps of peers that want nothing more, on hosts in memory."""

from __future__ import annotations

import os

import trio

from lattica.content.bitswap import exchange
from lattica.content.bitswap.exchange import Exchange, open_exchange
from lattica.content.bitswap.messages import PROTOCOL, Message, Want, encode
from lattica.content.manifest.cid import Cid
from tests.support.doubles.memory_host import memory_net
from tests.support.nets.blocks import Blocks
from tests.support.nets.nets import settled

WANT = encode(Message(wants=(Want(bytes(Cid.of(b"x")), send_dont_have=True),)))


async def test_after_a_flood_streams_to_a_few_peers_stay():
    async with memory_net() as net:
        server = net.host()
        async with open_exchange(server, Blocks()) as served:
            answered = 0

            async def hear(stream) -> None:
                nonlocal answered
                await stream.receive_message(1000)
                answered += 1
                await trio.sleep_forever()

            for _ in range(60):
                client = net.host()
                client.handle(PROTOCOL, hear, owner="test")
                await client.connect(server.peer_id)
                stream = await client.open_stream(server.peer_id, PROTOCOL)
                await stream.send_message(WANT)
            await settled(lambda: answered == 60 and len(served._outboxes) <= exchange._MAX_IDLE)
            assert len(served._outboxes) == len(served._idle) == exchange._MAX_IDLE


async def test_what_comes_as_the_time_of_an_idle_stream_is_up_is_sent(monkeypatch):
    """It was lost: the peer was never asked."""
    block = os.urandom(1000)
    async with memory_net() as net:
        one, two = net.host(), net.host()
        async with open_exchange(one, Blocks()) as asks, open_exchange(two, Blocks(block)):
            await one.connect(two.peer_id)
            ended = _end_as_it_asks(monkeypatch, asks)
            with trio.fail_after(30):
                for _ in range(3):
                    assert (await asks.get(Cid.of(block), 20))[1] == block
                    await settled(lambda: bool(asks._idle))
            assert ended


async def test_what_is_read_after_the_end_is_not_answered():
    """Handlers of streams outlive an exchange: what they began failed in its closed nursery."""
    block = os.urandom(1000)
    async with memory_net() as net:
        host, peer = net.host(), net.host()
        await host.connect(peer.peer_id)
        async with open_exchange(host, Blocks(block)) as served:
            pass
        await served._serve(peer.peer_id, [Want(bytes(Cid.of(block)))])
        served._send(served._asking.begin(Cid.of(b"x"), [peer.peer_id], trio.current_time()))
        assert not served._outboxes


def _end_as_it_asks(monkeypatch, asks: Exchange) -> list[None]:
    """End the wait of each idle outbox just before something is put into it."""
    ended: list[None] = []
    put = asks._outbox

    def outbox(peer):
        found = put(peer)
        scope = asks._idle.get(found)
        if scope is not None:
            scope.cancel()
            ended.append(None)
        return found

    monkeypatch.setattr(asks, "_outbox", outbox)
    return ended
