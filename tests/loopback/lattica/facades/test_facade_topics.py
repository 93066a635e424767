"""Topics of both facades, on loopback."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from lattica.config import load_config
from lattica.dht.topics.membership.core import MemberJoined, MemberLeft
from lattica.errors import LocalProtocolError
from lattica.facades.aio import AsyncLattica
from lattica.facades.blocking import Lattica
from lattica.nat.base.keys.identity import Identity

CONFIG = load_config(
    environment={},
    overrides={"listen": ["/ip4/127.0.0.1/tcp/0"], "nat.port_mapping.enabled": False},
)

STATIC = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
POINTED = replace(CONFIG, bootstrap=(STATIC,))


def test_threads_publish_and_subscribe():
    with Lattica(CONFIG) as one, Lattica(CONFIG) as two:
        topic = two.topic("news")
        with topic.subscribe() as messages:
            one.connect(two.addrs[0])
            assert one.topic("news").name == "news"
            one.topic("news").wait_peers(timeout=60)
            assert one.topic("news").peers() == (two.peer_id,)
            for number in range(600):
                assert one.topic("news").publish(b"%d" % number) == 1
            got = [messages.receive(timeout=60) for _ in range(600)]
            assert [message.data for message in got] == [b"%d" % n for n in range(600)]
            assert got[0].source == one.peer_id
            assert messages.lost == 0
            with pytest.raises(TimeoutError):
                messages.receive(timeout=0.01)
            topic.set_validator(lambda message: message.data != b"bad")
            one.topic("news").publish(bytearray(b"bad"))
            one.topic("news").publish(b"good")
            assert messages.receive(timeout=60).data == b"good"
            waiting = threading.Thread(target=lambda: list(messages))
            waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
        with pytest.raises(LocalProtocolError):
            messages.receive()
        with pytest.raises(LocalProtocolError):
            two.topic("")


def test_peers_are_found_by_topic():
    async def main(expected: str) -> None:
        async with AsyncLattica(POINTED) as one:
            assert await one.discovery.advertise("x") == 0
            await one.discovery.withdraw("x")
            found = [str(peer.peer_id) async for peer in one.discovery.find_peers("x")]
            assert found == [expected]
            with pytest.raises(LocalProtocolError):
                await anext(one.discovery.find_peers(""))

    with Lattica(POINTED) as one:
        assert one.discovery.advertise("x") == 0
        one.discovery.withdraw("x")
        with one.discovery.find_peers("x") as found:
            (peer,) = found
        assert peer.source == "static"
        with pytest.raises(LocalProtocolError):
            one.discovery.find_peers("")
    asyncio.run(main(str(peer.peer_id)))


def test_asyncio_publishes_and_subscribes():
    async def main() -> None:
        async with AsyncLattica(CONFIG) as one, AsyncLattica(CONFIG) as two:
            listener = await two.topic("news")
            async with listener.subscribe() as messages:
                await one.connect((await two.addrs())[0])
                topic = await one.topic("news")
                await topic.wait_peers(timeout=60)
                assert await topic.peers() == (two.peer_id,)
                assert await topic.publish(b"hello") == 1
                message = await messages.receive(timeout=60)
                assert (message.data, message.source) == (b"hello", one.peer_id)
                assert await messages.lost() == 0
                with pytest.raises(TimeoutError):
                    await messages.receive(timeout=0.01)
                reading = asyncio.create_task(messages.receive())
                await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                await topic.publish(b"still there")
                async for message in messages:
                    assert message.data == b"still there"
                    break

    asyncio.run(main())


def test_what_a_member_cannot_say_is_an_error_where_it_is_said():
    async def main() -> None:
        async with AsyncLattica(CONFIG) as node:
            topic = await node.topic("news")
            with pytest.raises(TypeError, match="encode it first"):
                async with topic.membership("gpu"):  # type: ignore[arg-type]
                    pass

    asyncio.run(main())
    with Lattica(CONFIG) as node:
        with pytest.raises(TypeError, match="encode it first"):
            node.topic("news").membership("gpu")  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="at most 512 bytes"):
            node.topic("news").membership(bytes(513))
        with node.topic("news").membership(bytes(512)) as members:
            assert members.members() == {}


def test_members_know_of_each_other():
    seen = threading.Event()

    async def other(addr: object) -> None:
        async with AsyncLattica(CONFIG) as two:
            await two.connect(str(addr))
            async with (await two.topic("news")).membership(b"two") as members:
                event = await members.receive(timeout=60)
                assert isinstance(event, MemberJoined)
                assert event.data == b"one"
                assert await members.members() == {event.peer_id: b"one"}
                # What was done and undone before it is read is left out.
                assert await asyncio.to_thread(seen.wait, 60)

    with Lattica(CONFIG) as one:
        with one.topic("news").membership(b"one") as members:
            thread = threading.Thread(target=lambda: asyncio.run(other(one.addrs[0])))
            thread.start()
            joined = members.receive(timeout=60)
            assert isinstance(joined, MemberJoined)
            assert joined.data == b"two"
            seen.set()
            assert members.receive(timeout=60) == MemberLeft(joined.peer_id)
            thread.join()
            assert members.members() == {}
            with pytest.raises(TimeoutError):
                members.receive(timeout=0.01)
        with pytest.raises(LocalProtocolError):
            one.topic("news").membership(bytes(600))
