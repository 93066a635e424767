"""News along topics: to those who are far away, sealed, and beside what is told directly."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lattica.crdt.config import StoreConfig
from lattica.crdt.entries.header import Kind
from lattica.crdt.store.replication.news import Seal
from lattica.crdt.types.payloads import RegisterWrite
from lattica.crdt.types.state import Change
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.doubles.memory_topics import MemoryTopics
from tests.unit.crdt.store.test_store import Stores, host_of, stores

SELDOM = StoreConfig(sync_interval=3600)


def hearing(net: Stores, topics: MemoryTopics):
    host = net.net.host()
    return net.store(host, topics=topics.of(host.peer_id), config=SELDOM)


async def test_news_reaches_those_who_are_not_connected_and_is_said_once(tmp_path, autojump_clock):
    topics = MemoryTopics()
    async with stores(tmp_path) as net:
        made = [hearing(net, topics) for _ in range(4)]
        documents = [await store.open("cluster") for store in made]
        await trio.testing.wait_all_tasks_blocked()
        documents[0].registers["key"] = "value"
        documents[0].presence.set("here")
        await trio.sleep(1)
        assert [document.registers.get("key") for document in documents] == ["value"] * 4
        assert list(documents[3].presence.peers()) == [host_of(made[0]).peer_id]
        # An entry with the certificate before it, and a statement; nobody repeats them.
        (said,) = topics.said.values()
        assert len(said) == 2
        # Who does not have the document reads none of it, and spoils none of it.
        for message in said:
            assert b"value" not in message
            assert b"key" not in message
            with pytest.raises(RemoteProtocolError):
                Seal(bytes(32)).open(message)
        (name,) = topics.said
        stranger = topics.of(Identity(bytes(32)).peer_id)(name)
        for forged in (b"", b"short", said[0][:-1], Seal(bytes(32)).close(b"\x06")):
            await stranger.publish(forged)
        assert [each.refused for each in topics.hearers[name].values()] == [4] * 4


async def test_who_does_not_hear_the_topic_is_told_directly(tmp_path, autojump_clock):
    topics = MemoryTopics()
    async with stores(tmp_path) as net:
        far, near, deaf = hearing(net, topics), hearing(net, topics), net.store(config=SELDOM)
        documents = [await store.open("cluster") for store in (far, near, deaf)]
        await host_of(near).connect(host_of(deaf).peer_id)
        await documents[1].synced()
        with documents[2].changes() as changes, documents[0].changes() as others:
            documents[0].registers["a"] = 1
            assert await anext(changes) == Change(Kind.REGISTER, "a")
            # And what comes from one who does not, everybody hears.
            documents[2].registers["b"] = 2
            assert await anext(others) == Change(Kind.REGISTER, "a")
            assert await anext(others) == Change(Kind.REGISTER, "b")
        assert trio.current_time() < 60


async def test_of_a_document_with_owners_nothing_goes_along_a_topic(tmp_path, autojump_clock):
    topics = MemoryTopics()
    async with stores(tmp_path) as net:
        store = hearing(net, topics)
        document = await store.create("models")
        document.registers["a"] = 1
        await trio.sleep(1)
        assert not topics.said
        assert not any(topics.hearers.values())


async def test_what_is_too_large_for_a_topic_is_left_to_an_exchange(tmp_path, autojump_clock):
    topics = MemoryTopics()
    async with stores(tmp_path) as net:
        one, two = hearing(net, topics), hearing(net, topics)
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        await first.synced()
        first.write(*(RegisterWrite(f"{number}", "x" * 60_000) for number in range(40)))
        with trio.fail_after(60):
            while len(list(second.registers)) < 40:
                await trio.sleep(0.1)
        assert first.root == second.root
