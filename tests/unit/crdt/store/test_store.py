"""Documents of nodes that reach each other in memory: found, replicated, told of."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.crdt.access.capability import Level
from lattica.crdt.config import StoreConfig
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Mode, Recovery
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.errors import StoreFullError
from lattica.crdt.store.changes import (
    MAX_PLACES,
    ChangeStream,
    OwnersChange,
    PresenceChange,
    Rebuilt,
)
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.store.store import Store
from lattica.crdt.sync.messages import Purpose
from lattica.crdt.sync.presence import PresenceTable, sign_presence
from lattica.crdt.types.payloads import RegisterWrite
from lattica.crdt.types.state import Change, State
from lattica.errors import (
    AccessDeniedError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import Identity
from tests.support.doubles.memory_host import MemoryHost, MemoryNet, memory_net
from tests.support.leaves import raises_leaf
from tests.support.nets.nets import settled


class Stores:
    """Hosts with stores in memory, and the folder of each."""

    def __init__(self, net: MemoryNet, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.made: list[Store] = []

    def store(self, host: MemoryHost | None = None, **given: object) -> Store:
        host = host or self.net.host()
        config = given.pop("config", StoreConfig())
        store = Store(
            host,
            self.net.nursery,
            host.identity,
            self.folder / str(host.peer_id),
            config,  # type: ignore[arg-type]
            **given,  # type: ignore[arg-type]
        )
        self.made.append(store)
        return store


@asynccontextmanager
async def stores(folder: Path) -> AsyncIterator[Stores]:
    async with memory_net() as net:
        yield (made := Stores(net, folder))
        for store in made.made:
            await store.aclose()


def host_of(store: Store) -> MemoryHost:
    host = store._host
    assert isinstance(host, MemoryHost)
    return host


async def test_two_nodes_that_meet_have_each_others_writes(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        first.registers["a"] = 1
        second.registers["b"] = [2]
        await host_of(one).connect(host_of(two).peer_id)
        assert await first.synced() == (host_of(two).peer_id,)
        assert await second.synced() == (host_of(one).peer_id,)
        assert first.root == second.root
        assert first.peers == (host_of(two).peer_id,)
        assert dict(second.registers.items()) == {"a": 1, "b": [2]}


async def test_news_arrives_without_being_asked_for(tmp_path, autojump_clock):
    config = StoreConfig(sync_interval=3600)
    async with stores(tmp_path) as net:
        one, two, three = (net.store(config=config) for _ in range(3))
        # In a line: what one writes reaches three through two.
        await host_of(one).connect(host_of(two).peer_id)
        await host_of(two).connect(host_of(three).peer_id)
        documents = [await store.open("cluster") for store in (one, two, three)]
        for document in documents:
            await document.synced()
        with documents[2].changes() as changes:
            documents[0].registers["key"] = "value"
            assert await anext(changes) == Change(Kind.REGISTER, "key")
        assert documents[2].registers["key"] == "value"
        assert trio.current_time() < 60


async def test_what_was_lost_is_found_by_the_next_exchange(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        await first.synced()
        host_of(one).drop(host_of(two).peer_id)
        while first.peers or second.peers:
            await trio.sleep(0.1)
        first.counter("steps").add(1)
        second.counter("steps").add(2)
        await host_of(two).connect(host_of(one).peer_id)
        await second.synced()
        assert first.counter("steps").value == second.counter("steps").value == 3


async def test_a_borrowed_document_is_closed_by_the_last_who_has_it(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        store = net.store()
        async with store.borrowed("cluster") as first:
            async with store.borrowed("cluster") as second:
                assert second is first
            assert store.opened() == [first]
        assert store.opened() == []
        async with store.borrowed("cluster") as third:
            kept = await store.open("cluster")
        assert kept is third
        async with store.borrowed("cluster"):
            pass
        assert store.opened() == [kept]
        # One that is closed under its borrower, and borrowed anew by another.
        async with store.borrowed("models") as old:
            old.close()
            async with store.borrowed("models") as new:
                assert new is not old
                assert new in store.opened()


async def test_a_document_is_opened_by_its_id_alone(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first = await one.create("models", mode=Mode.OPEN)
        first.registers["a"] = 1
        await host_of(two).connect(host_of(one).peer_id)
        second = await two.open(first.id)
        await second.synced()
        assert second.name == "models"
        assert second.registers["a"] == 1
        assert [(each.id, each.name, each.is_open) for each in two.documents()] == [
            (first.id, "models", True)
        ]
        second.close()
        again = await two.open("models")
        assert again.id == first.id
        assert again.registers["a"] == 1


async def test_an_id_that_nobody_knows_is_looked_for_and_given_up(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        store, other = net.store(), net.store()
        await host_of(store).connect(host_of(other).peer_id)
        with pytest.raises(TimeoutError, match="no peer was found within 20 s"):
            await store.open("ab" * 32, timeout=20)
        document = await store.open("alone")
        with pytest.raises(TimeoutError, match="0 connected peers"):
            await document.synced(timeout=10)


async def test_what_names_no_document_is_said(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        store: Any = net.store()
        with pytest.raises(LocalProtocolError, match="document: an ID or a name, not 5"):
            await store.open(5)
        with pytest.raises(TypeError, match="a timeout is a number of seconds, or None; not '5'"):
            await store.open("a", timeout="5")
        for wrong in ({"name": 5}, {"mode": "open"}, {"owners": "12D3"}, {"kinds": ["register"]}):
            with pytest.raises(LocalProtocolError, match=f"^{next(iter(wrong))}: .*, not "):
                await store.create(**{"name": "a", **wrong})


async def test_a_document_that_must_exist_is_not_begun_and_is_found_by_its_name(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        await host_of(one).connect(host_of(two).peer_id)
        with pytest.raises(TimeoutError, match="no document 'cluster' is here, and no peer was"):
            await one.open("cluster", timeout=20, must_exist=True)
        with pytest.raises(TimeoutError, match=r"no document 'cluster' is here$"):
            await one.open("cluster", timeout=0, must_exist=True)
        assert one.documents() == []
        second = await two.open("cluster")
        first = await one.open("cluster", must_exist=True)
        assert first.id == second.id


async def test_a_peer_that_opens_the_document_later_is_told_of_it(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        await host_of(one).connect(host_of(two).peer_id)
        first = await one.open("cluster")
        first.registers["a"] = 1
        await trio.sleep(20)
        assert first.peers == ()
        second = await two.open("cluster")
        await second.synced(timeout=5)
        assert second.registers["a"] == 1
        assert host_of(two).peer_id in first.peers


async def test_those_who_do_not_know_a_document_learn_nothing_of_it(tmp_path, autojump_clock):
    """A stranger gets a tag bound to the two peers, which is of no use with anybody else."""
    from lattica.crdt.sync.messages import ABSENT, PROTOCOL

    heard: list[bytes] = []

    async def listen(stream):
        heard.append(await stream.receive_message(1000))
        await stream.send_message(ABSENT)

    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("secret"), await two.open("secret")
        stranger = net.net.host()
        stranger.handle(PROTOCOL, listen, owner="test")
        await host_of(one).connect(stranger.peer_id)
        await trio.sleep(30)
        assert len(heard) == 1
        assert first.genesis.doc_id not in heard[0]
        # What it has heard it says to another peer that has the document.
        async with await stranger.open_stream(host_of(two).peer_id, PROTOCOL) as stream:
            await stream.send_message(heard[0])
            assert await stream.receive_message(1000) == ABSENT
        assert second.peers == ()


async def test_damaged_files_are_made_again_and_the_rest_comes_from_peers(
    tmp_path, autojump_clock, caplog
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first = await one.create("models", mode=Mode.OPEN)
        await host_of(one).connect(host_of(two).peer_id)
        second = await two.open(first.id)
        for number in range(50):
            first.registers[f"{number}"] = "x" * 200
        await second.synced()
        doc_id, root = first.id, first.root
        await one.aclose()
        (genesis,) = one.folder.glob("*.genesis")
        (file,) = one.folder.glob("*.sqlite3")
        whole = genesis.read_bytes()
        genesis.write_bytes(b"")
        one = net.store(host_of(one))
        assert (await one.open(doc_id)).registers["7"]
        assert genesis.read_bytes() == whole
        await one.aclose()
        genesis.unlink()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        one = net.store(host_of(one))
        first = await one.open(doc_id)
        assert "is damaged" in caplog.text
        await first.synced()
        assert first.root == second.root == root


async def test_a_full_disk_is_named_and_what_peers_have_comes_when_there_is_room(
    tmp_path, autojump_clock, caplog
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        first.registers["here"] = 1
        await host_of(one).connect(host_of(two).peer_id)
        await first.synced()
        database = first._replica.database._db
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count={pages}")
        for number in range(20):
            second.registers[f"{number}"] = "x" * 3000
        with pytest.raises(StoreFullError):
            first.registers["mine"] = "x" * 9000
        await trio.sleep(30)
        assert "no space is left" in caplog.text
        assert first.registers["here"] == 1
        database.execute(f"PRAGMA max_page_count={2**30}")
        await trio.sleep(70)
        assert first.root == second.root
        first.registers["mine"] = 2
        await second.synced()
        assert second.registers["mine"] == 2


async def test_names_say_which_document_is_meant(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        store = net.store(config=StoreConfig(max_documents=2))
        one, _ = await store.create("twice"), await store.create("twice")
        with pytest.raises(LocalProtocolError, match="several documents here are called 'twice'"):
            await store.open("twice")
        assert await store.open(one.id) is one
        with pytest.raises(ResourceLimitError):
            await store.open("third")
        one.close()
        one.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            one.changes()
        await store.open("third")
        await store.aclose()
        with pytest.raises(LocalProtocolError, match="ended"):
            await store.open("third")


async def test_a_replica_that_breaks_the_protocol_is_told_of_and_does_no_harm(
    tmp_path, autojump_clock, caplog
):
    from lattica.crdt.sync.messages import PROTOCOL

    async def babble(stream):
        await stream.receive_message(1000)
        await stream.send_message(b"\xff" * 100)

    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        babbler = net.net.host()
        babbler.handle(PROTOCOL, babble, owner="test")
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(babbler.peer_id)
        await host_of(one).connect(host_of(two).peer_id)
        first.registers["a"] = 1
        await second.synced()
        await trio.sleep(1000)
        lines = [each for each in caplog.records if "broke the store's protocol" in each.message]
        assert 1 <= len(lines) < 40
        assert second.registers["a"] == 1


async def test_who_ends_an_exchange_early_is_not_accused(tmp_path, autojump_clock, caplog):
    from lattica.crdt.sync.messages import PROTOCOL

    heard = 0

    async def close_at_once(stream):
        nonlocal heard
        await stream.receive_message(1000)
        heard += 1

    async with stores(tmp_path) as net:
        one, closing = net.store(), net.net.host()
        closing.handle(PROTOCOL, close_at_once, owner="test")
        first = await one.open("cluster")
        await host_of(one).connect(closing.peer_id)
        first.registers["a"] = 1
        await trio.sleep(100)
        assert heard
        assert "broke the store's protocol" not in caplog.text


async def test_nothing_is_lost_where_a_document_is_closed_while_a_peer_sends(
    tmp_path, autojump_clock, caplog, monkeypatch
):
    heard = trio.Event()
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        await first.synced()
        receive = second.receive

        def close_and_receive(chain, peer):
            second.close()
            heard.set()
            return receive(chain, peer)

        monkeypatch.setattr(second, "receive", close_and_receive)
        first.registers["a"] = 1
        await heard.wait()
        await trio.sleep(1)
        assert "cannot be kept" not in caplog.text
        again = await two.open("cluster")
        await again.synced()
        assert again.registers["a"] == 1


async def test_changes_never_lose_the_last_state_however_slow_the_listener(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        document = await net.store().open("cluster")
        changes = document.changes()
        for number in range(1000):
            document.registers[f"key-{number % 3}"] = number
        seen = [await anext(changes) for _ in range(3)]
        assert {each.name for each in seen if isinstance(each, Change)} == {
            "key-0",
            "key-1",
            "key-2",
        }
        with trio.move_on_after(1) as scope:
            await anext(changes)
        assert scope.cancelled_caught
        document.registers["key-0"] = "last"
        document.close()
        assert [each async for each in changes] == [Change(Kind.REGISTER, "key-0")]


async def test_too_many_changed_places_are_told_as_one(autojump_clock):
    stream = ChangeStream()
    changes = [Change(Kind.REGISTER, f"{number}") for number in range(MAX_PLACES + 2)]
    for change in changes:
        stream.tell([change], is_rebuilt=False)
    stream.close()
    assert [each async for each in stream] == [Rebuilt()]


async def test_a_document_with_rights_is_told_to_those_who_have_one(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        owner, reader, stranger = net.store(), net.store(), net.store()
        document = await owner.create("models", mode=Mode.ALLOW_LIST)
        document.registers["a"] = 1
        for store in (reader, stranger):
            await host_of(store).connect(host_of(owner).peer_id)
        first, second = await reader.open(document.id), await stranger.open(document.id)
        await trio.sleep(60)
        # They know that it is there, and nothing of what is in it.
        assert not dict(first.registers.items())
        assert document.peers == ()
        document.grant(host_of(reader).peer_id, Level.READ)
        await first.synced(timeout=60)
        assert first.registers["a"] == 1
        with pytest.raises(AccessDeniedError):
            first.registers["a"] = 2
        document.grant(host_of(reader).peer_id, Level.WRITE)
        await first.synced(timeout=60)
        first.registers["a"] = 2
        await document.synced(timeout=60)
        assert document.registers["a"] == 2
        document.revoke(host_of(reader).peer_id)
        document.registers["a"] = 3
        await trio.sleep(60)
        assert first.registers["a"] == 2
        assert document.peers == ()
        assert not dict(second.registers.items())


async def test_a_capability_that_was_handed_over_opens_a_document(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        owner, writer, other = net.store(), net.store(), net.store()
        document = await owner.create("models")
        capability = document.grant(host_of(writer).peer_id)
        theirs = document.grant(host_of(other).peer_id, Level.READ)
        # The owner's own log is not heard of by the two.
        for store in (writer, other):
            store._keep_genesis(document.genesis)
        document.close()
        first = await writer.open(document.id, capability=capability)
        first.registers["a"] = 1
        second = await other.open(document.id, capability=theirs)
        await host_of(writer).connect(host_of(other).peer_id)
        await second.synced(timeout=60)
        assert second.registers["a"] == 1
        first.close()
        assert (await writer.open(document.id)).capability == capability


async def test_who_is_there_is_known_to_all_and_who_falls_silent_is_gone(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two, three = (net.store() for _ in range(3))
        await host_of(one).connect(host_of(two).peer_id)
        await host_of(two).connect(host_of(three).peer_id)
        first, second, third = [await store.open("cluster") for store in (one, two, three)]
        first.presence.set({"load": 1})
        await third.synced()
        with third.changes() as changes:
            await trio.sleep(1)
            me = host_of(one).peer_id
            assert third.presence.peers() == {me: {"load": 1}}
            first.presence.set({"load": 2})
            assert [await anext(changes) for _ in range(1)] == [PresenceChange(me)]
            await trio.sleep(60)
            assert third.presence.peers() == {me: {"load": 2}}
            second.presence.set("here")
            await trio.sleep(1)
            assert len(first.presence.peers()) == 2
            second.presence.clear()
            await trio.sleep(1)
            assert first.presence.peers().keys() == {me}
            first.close()
            await trio.sleep(20)
            assert third.presence.peers() == {}
            assert PresenceChange(me) in [await anext(changes) for _ in range(2)]


def test_statements_of_presence_come_once_and_from_those_who_sign_them():
    identity, doc_id = Identity(bytes(32)), bytes(32)
    table = PresenceTable(doc_id, lambda key: True)
    first = sign_presence(identity, doc_id, 1, 15_000, "a")
    second = sign_presence(identity, doc_id, 2, 15_000, "b")
    assert table.take(second.encoded, 0.0) == (second, None)
    assert table.take(second.encoded, 1.0) is None
    assert table.take(first.encoded, 1.0) is None
    assert [each.value for each in table.here(14.0)] == ["b"]
    assert table.here(16.0) == []
    assert table.expire(16.0) == [identity.public_key.data]
    assert table.expire(17.0) == []
    assert table.take(second.encoded, 18.0) is None
    forged = bytearray(sign_presence(identity, doc_id, 3, 15_000, "c").encoded)
    forged[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        table.take(bytes(forged), 20.0)
    third, fourth = (sign_presence(identity, doc_id, each, 15_000, "d") for each in (4, 5))
    assert table.take(third.encoded, 20.0) == (third, None), "what was said before holds no more"
    assert table.take(fourth.encoded, 21.0) == (fourth, third)
    with pytest.raises(RemoteProtocolError):
        table.take(sign_presence(identity, bytes(31) + b"x", 6, 1000, None).encoded, 20.0)
    assert PresenceTable(doc_id, lambda key: False).take(second.encoded, 0.0) is None
    with pytest.raises(LocalProtocolError):
        sign_presence(identity, doc_id, 1, 1000, "x" * 2000)


async def test_a_sealed_document_goes_by_way_of_one_who_cannot_read_it(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        owner, relay, reader = (net.store() for _ in range(3))
        keys = [host_of(each).identity.public_key.data for each in (relay, reader)]
        first = await owner.create("private", is_sealed=True)
        first.grant(keys[0], Level.PULL)
        first.grant(keys[1], Level.WRITE)
        await host_of(owner).connect(host_of(relay).peer_id)
        await host_of(relay).connect(host_of(reader).peer_id)
        second = await relay.open(first.id)
        await second.synced()
        third = await reader.open(first.id)
        await third.synced()
        with first.changes() as changes, second.changes():
            third.registers["a"] = "by a reader"
            assert await anext(changes) == Change(Kind.REGISTER, "a")
        assert first.registers["a"] == "by a reader"
        with pytest.raises(AccessDeniedError):
            second.registers.get("a")
        # What peers say of themselves is for readers, too.
        first.presence.set({"load": 0.5})
        with pytest.raises(AccessDeniedError):
            second.presence.set({"load": 1})
        second.presence.set()
        await trio.sleep(1)
        here = host_of(owner).peer_id
        assert third.presence.peers()[here] == {"load": 0.5}
        assert second.presence.peers()[here] is None
        assert host_of(relay).peer_id in first.presence.peers()


async def test_an_owners_node_gives_the_read_key_to_whom_others_have_let_in(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two, reader = (net.store() for _ in range(3))
        owners = [host_of(each).peer_id for each in (one, two)]
        first = await one.create("private", owners=owners, is_sealed=True)
        first.registers["a"] = 1
        await host_of(one).connect(host_of(two).peer_id)
        second = await two.open(first.id)
        await second.synced()
        host_of(one).drop(host_of(two).peer_id)
        # Who does not know of it yet connects again to tell the news.
        await settled(lambda: not first.peers and not second.peers)
        first.rotate_key()
        first.registers["b"] = 2
        second.grant(host_of(reader).peer_id, Level.READ)
        await host_of(reader).connect(host_of(two).peer_id)
        third = await reader.open(first.id)
        await third.synced()
        assert dict(third.registers.items()) == {"a": 1}
        await host_of(one).connect(host_of(two).peer_id)
        with third.changes() as changes:
            while "b" not in third.registers:
                await anext(changes)
        assert third.can_read


async def owned_and_read(
    owner: Store, reader: Store, recovery: Recovery
) -> tuple[SharedDocument, SharedDocument, Entry, SessionKey]:
    """A document of an owner's, in step with a reader's; its last entry, and its session."""
    first = await owner.create("models", recovery=recovery)
    first.grant(host_of(reader).peer_id)
    first.registers["a"] = 1
    entry = first._replica.database.entry(first.author, 2)
    await host_of(reader).connect(host_of(owner).peer_id)
    second = await reader.open(first.id)
    await second.synced()
    session = first._replica._session
    assert session is not None
    return first, second, entry, session


async def test_an_owner_who_has_forked_is_told_of_and_so_is_who_takes_its_place(
    tmp_path, autojump_clock, caplog
):
    key = Identity(bytes(32))
    async with stores(tmp_path) as net:
        owner, reader = net.store(), net.store()
        recovery = Recovery(1, (key.public_key.data,))
        first, second, entry, session = await owned_and_read(owner, reader, recovery)
        contradiction = sign_entry(
            session, first.genesis.doc_id, 2, entry.header.prev_id, entry.header.hlc, 1, b"\xc0"
        )
        with second.changes() as changes:
            first.receive(encode_chain([contradiction], with_prev=True), "peer")
            while await anext(changes) != OwnersChange():
                pass
        assert second.owners()[0].is_frozen
        assert "has contradicted itself" in caplog.text
        appointment = first.appoint(host_of(owner).peer_id, by=key)
        with second.changes() as changes:
            first.present(appointment)
            while await anext(changes) != OwnersChange():
                pass
        assert not second.owners()[0].is_frozen


async def test_an_owner_who_was_replaced_meanwhile_is_told_so_and_nothing_else(
    tmp_path, autojump_clock, caplog
):
    key = Identity(bytes(32))
    async with stores(tmp_path) as net:
        owner, other = net.store(), net.store()
        successor = host_of(other).peer_id
        recovery = Recovery(1, (key.public_key.data,))
        first = await owner.create("models", recovery=recovery)
        first.grant(successor)
        first.registers["a"] = 1
        await host_of(other).connect(host_of(owner).peer_id)
        second = await other.open(first.id)
        await second.synced()
        host_of(owner).drop(successor)
        while first.peers or second.peers:
            await trio.sleep(0.1)
        session = first._replica._session
        assert session is not None
        entry = first._replica.database.entry(first.author, 2)
        contradiction = sign_entry(
            session, first.genesis.doc_id, 2, entry.header.prev_id, entry.header.hlc, 1, b"\xc0"
        )
        second.receive(encode_chain([contradiction], with_prev=True), "peer")
        second.present(second.appoint(successor, by=key))
        second.registers["later"] = 1
        assert first.owners() != second.owners()
        assert not second.may_pull(host_of(owner).peer_id)
        with first.changes() as changes:
            await host_of(owner).connect(successor)
            while first.is_owner:
                await anext(changes)
        assert first.owners() == second.owners()
        assert "does not own a document any more" in caplog.text
        await trio.sleep(60)
        assert first.heads()[second.author][0] == 1
        assert dict(first.registers.items()) == {}


async def test_who_begins_with_a_document_hears_it_of_a_peer_whose_right_is_in_what_it_hears(
    tmp_path, autojump_clock, monkeypatch
):
    # The right of the one who is asked comes behind the other one's.
    monkeypatch.setattr("lattica.crdt.document.feeds._PIECE", 1)
    async with stores(tmp_path) as net:
        owner, one, two = (net.store() for _ in range(3))
        first = await owner.create("models")
        first.grant(host_of(two).peer_id)
        first.registers["a"] = 1
        first.grant(host_of(one).peer_id)
        await host_of(owner).connect(host_of(one).peer_id)
        second = await one.open(first.id)
        await second.synced()
        first.close()
        await host_of(two).connect(host_of(one).peer_id)
        third = await two.open(first.id)
        await third.synced(timeout=600)
        assert third.root == second.root
        assert third.registers["a"] == 1


async def test_who_has_only_listened_is_not_one_with_whom_a_document_is_in_step(
    tmp_path, autojump_clock, monkeypatch
):
    # It has told nothing of what it has: `synced` waits for the exchange that is opened here.
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        first.registers["a"] = 1
        begin, may_begin = second._replicator.exchanges.begin, trio.Event()

        async def late(*arguments):
            await may_begin.wait()
            return await begin(*arguments)

        async def listen_only(peer, _):
            opened = await listening._ask(peer, Purpose.SYNC)
            assert opened is not None
            async with opened[0] as stream:
                await listening.converse(stream, opened[1].nonce, is_opener=True, tells=False)
            has_listened.set()

        listening, has_listened = first._replicator.exchanges, trio.Event()
        monkeypatch.setattr(second._replicator.exchanges, "begin", late)
        monkeypatch.setattr(listening, "begin", listen_only)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.synced)
            await wait_all_tasks_blocked()
            await host_of(one).connect(host_of(two).peer_id)
            await has_listened.wait()
            await trio.sleep(5)
            assert nursery.child_tasks
            may_begin.set()
        assert second.registers["a"] == 1


async def test_who_is_appointed_and_has_nothing_of_the_document_hears_it_of_readers(
    tmp_path, autojump_clock
):
    key = Identity(bytes(32))
    async with stores(tmp_path) as net:
        owner, reader, other = (net.store() for _ in range(3))
        recovery = Recovery(1, (key.public_key.data,))
        first, second, entry, session = await owned_and_read(owner, reader, recovery)
        first.close()
        contradiction = sign_entry(
            session, first.genesis.doc_id, 3, entry.id, entry.header.hlc + 1, 1, b"\xc0"
        )
        second.receive(encode_chain([contradiction], with_prev=True), "peer")
        other_contradiction = sign_entry(
            session, first.genesis.doc_id, 3, entry.id, entry.header.hlc + 2, 1, b"\xc0"
        )
        second.receive(encode_chain([other_contradiction], with_prev=True), "peer")
        assert second.owners()[0].is_frozen
        appointment = second.appoint(host_of(other).peer_id, by=key)
        await host_of(other).connect(host_of(reader).peer_id)
        third = await other.open(first.id, capability=appointment)
        await third.synced(timeout=600)
        assert third.is_owner
        third.registers["b"] = 2
        await third.synced(timeout=600)
        assert second.owners() == third.owners()
        assert dict(second.registers.items()) == {"a": 1, "b": 2}


async def test_who_has_a_right_that_its_givers_fork_takes_away_is_told_nothing_more(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        owner, one, two = (net.store() for _ in range(3))
        first = await owner.create("models")
        first.grant(host_of(one).peer_id)
        seq = first.next_seq
        first.grant(host_of(two).peer_id)
        await host_of(owner).connect(host_of(one).peer_id)
        second = await one.open(first.id)
        await second.synced()
        await host_of(two).connect(host_of(one).peer_id)
        third = await two.open(first.id)
        await third.synced()
        while host_of(two).peer_id not in second.peers:
            await trio.sleep(1)  # it was asked before it had the document
        # The owner's other entry at the place of the right.
        session = first._replica._session
        assert session is not None
        before = first._replica.database.entry(session.author, seq - 1)
        payload = RegisterWrite("a", 1).encode()
        hlc = before.header.hlc + 1
        doc_id = first.genesis.doc_id
        other = sign_entry(session, doc_id, seq, before.id, hlc, Kind.REGISTER, payload)
        second.receive(encode_chain([other], with_prev=True), "owner")
        assert list(second.forks())
        # At once, and not with the next exchange.
        assert host_of(two).peer_id not in second.peers


async def test_what_has_come_is_resolved_in_turns_before_it_is_read(
    tmp_path, autojump_clock, monkeypatch
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first = await one.open("cluster")
        first.write(*(RegisterWrite(f"key/{number}", number) for number in range(600)))
        await host_of(one).connect(host_of(two).peer_id)
        second = await two.open("cluster")
        second._resolved.forget()
        turns: list[int] = []
        resolving = second.resolving

        def counted() -> Iterator[None]:
            for _ in resolving():
                turns.append(1)
                yield

        monkeypatch.setattr(second, "resolving", counted)
        await second.synced()
        assert len(turns) >= 4
        monkeypatch.setattr(State, "rebuild", None)  # nothing is left to do at once
        assert second.registers["key/599"] == 599
        second.registers["more"] = 1
        await first.synced()
        assert second.root == first.root


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_document_that_is_opened_again_is_resolved_in_turns(
    tmp_path, monkeypatch, is_large
):
    """What is in a large file is read by another thread, too."""
    readers: list[int] = []

    class Told(Replica):
        def __init__(self, *args: Any) -> None:
            readers.append(threading.get_ident())
            super().__init__(*args)

    async with stores(tmp_path) as net:
        store = net.store()
        document = await store.open("cluster")
        document.write(*(RegisterWrite(f"key/{number}", number) for number in range(600)))
        root = document.root
        document.close()
        await wait_all_tasks_blocked()
        monkeypatch.setattr("lattica.crdt.store.store.Replica", Told)
        monkeypatch.setattr("lattica.crdt.store.store._LARGE", 1 if is_large else 1 << 30)
        monkeypatch.setattr(State, "rebuild", None)  # nothing is left to do at once
        again: list[SharedDocument] = []

        async def open_it() -> None:
            again.append(await store.open("cluster"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_it)
            nursery.start_soon(open_it)
        assert again[0] is again[1] is not document
        assert [each == threading.get_ident() for each in readers] == [not is_large]
        assert again[0].registers["key/599"] == 599
        again[0].registers["more"] = 1
        del again[0].registers["more"]
        assert again[0].root != root


async def test_who_listens_is_told_of_a_fork_when_it_is_resolved(
    tmp_path, autojump_clock, monkeypatch
):
    """And not made to wait for it, however many there are and however much there is to resolve."""
    async with stores(tmp_path) as net:
        store = net.store()
        document = await store.open("cluster")
        document.write(*(RegisterWrite(f"key/{number}", number) for number in range(600)))
        monkeypatch.setattr(State, "rebuild", None)
        with document.changes() as changes:
            for name in (b"one", b"other"):
                liar, doc_id = SessionKey(name.ljust(32)), document.genesis.doc_id
                certificate = liar.certificate(Identity(name.ljust(32)), doc_id).encode()
                first = sign_entry(liar, doc_id, 0, doc_id, 1 << 16, Kind.SESSION, certificate)
                for value in (1, 2):
                    payload = RegisterWrite("key/5", value).encode()
                    entry = sign_entry(liar, doc_id, 1, first.id, 2 << 16, Kind.REGISTER, payload)
                    document.receive(encode_chain([first, entry], with_prev=True), "peer")
            assert document._resolved.is_stale
            while await anext(changes) != Rebuilt():
                pass
            assert document.registers["key/5"] == 5
            document.registers["key/5"] = 6
            while await anext(changes) != Change(Kind.REGISTER, "key/5"):
                pass


async def test_who_closes_a_store_is_not_left_waiting_when_the_end_of_a_document_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
):
    def fail() -> None:
        raise MemoryError

    closed = False
    with raises_leaf(MemoryError):
        async with stores(tmp_path) as net:
            store = net.store()
            document = await store.create("models", mode=Mode.OPEN)
            close = document.close
            calls = iter([close])
            monkeypatch.setattr(document, "close", lambda: next(calls, fail)())
            await store.aclose()
            closed = True
    assert closed
