"""What Bitswap keeps of peers that want nothing more, on hosts in memory."""

from __future__ import annotations

import os
import threading

import trio

from lattica.content.bitswap import asking, exchange
from lattica.content.bitswap.exchange import Exchange, open_exchange
from lattica.content.bitswap.messages import PROTOCOL, Message, Want, decode, encode
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
            with trio.fail_after(60):
                for _ in range(3):
                    assert (await asks.get(Cid.of(block), 20))[1] == block
                    await settled(lambda: bool(asks._idle))
            assert ended


async def test_a_peer_that_looks_a_want_up_once_is_asked_anew(monkeypatch):
    """beetswap keeps a want that came before the block was stored, and sends nothing."""
    block = os.urandom(1000)
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    async with memory_net() as net:
        one, two = net.host(), net.host()
        stored, wanted = False, set()

        async def serve(stream) -> None:
            nonlocal stored
            while True:
                (want,) = decode(await stream.receive_message(1000)).wants
                if want.cancel:
                    wanted.discard(want.cid)
                elif want.cid not in wanted:
                    wanted.add(want.cid)
                    if stored:
                        answer = await two.open_stream(one.peer_id, PROTOCOL)
                        await answer.send_message(encode(Message(blocks=(block,))))
                    stored = True

        two.handle(PROTOCOL, serve, owner="test")
        async with open_exchange(one, Blocks()) as asks:
            await one.connect(two.peer_id)
            assert await asks.get(Cid.of(block), 30) == (two.peer_id, block)


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


async def test_nothing_is_kept_of_a_peer_that_goes_while_its_wants_are_looked_up():
    """A host that came with one key after the other left a thousand wants behind with each."""
    looks, may_look = [], threading.Event()

    class Slow(Blocks):
        def get_block(self, cid: Cid) -> None:
            looks.append(cid)
            may_look.wait(20)

    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with open_exchange(server, Slow()) as served:
            await client.connect(server.peer_id)
            stream = await client.open_stream(server.peer_id, PROTOCOL)
            wants = tuple(Want(bytes(Cid.of(b"%d" % n)), send_dont_have=True) for n in range(1000))
            await stream.send_message(encode(Message(wants=wants)))
            await settled(lambda: bool(looks))
            client.drop(server.peer_id)
            await settled(lambda: server.path(client.peer_id) is None)
            may_look.set()
            await settled(lambda: not served._looking.borrowed_tokens)
            await settled(lambda: not server.peers())
            assert not served._wanted._peers
            assert not served._outboxes


async def test_a_thousand_wants_of_what_is_not_here_take_a_thread_a_few_times(monkeypatch):
    visits = 0
    real = trio.to_thread.run_sync

    async def counted(*args, **options):
        nonlocal visits
        visits += 1
        return await real(*args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    block = os.urandom(100)
    async with memory_net() as net:
        server, client = net.host(), net.host()
        answers: list[Message] = []

        async def hear(stream) -> None:
            while True:
                answers.append(decode(await stream.receive_message(1 << 20)))

        client.handle(PROTOCOL, hear, owner="test")
        async with open_exchange(server, Blocks(block)):
            await client.connect(server.peer_id)
            stream = await client.open_stream(server.peer_id, PROTOCOL)
            cids = [bytes(Cid.of(b"%d" % n)) for n in range(1000)]
            wants = [Want(cid, have_only=True, send_dont_have=True) for cid in cids]
            wants.append(Want(bytes(Cid.of(block))))
            await stream.send_message(encode(Message(wants=tuple(wants))))
            await settled(lambda: bool(answers))
            assert list(answers[0].dont_haves) == cids
            assert answers[0].blocks == (block,)
            assert visits < 10, "a visit for each want"


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
