"""Documents for threads and for asyncio: the same document at both ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lattica import AsyncLattica, Lattica
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Recovery
from lattica.crdt.entries.header import Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.store.changes import ErasedChange
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.types.state import Change
from lattica.crdt.uses.membership import Membership
from lattica.crdt.uses.model_registry import ModelRegistry
from lattica.crdt.uses.work_queue import Task, WorkQueue
from lattica.errors import AccessDeniedError, LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.nets.nets import node_config


def test_threads_and_asyncio_share_a_document():
    with Lattica(node_config()) as one:
        document = one.documents.open("cluster")
        document.registers["a"] = {"v": 1}
        document.counter("steps").add(2)
        document.set("workers").add("w1")
        changes = document.changes()

        async def other() -> None:
            async with AsyncLattica(node_config()) as two:
                await two.connect(one.addrs)
                shared = await two.documents.open(document.id)
                await shared.synced(timeout=60)
                assert await shared.registers.get("a") == {"v": 1}
                assert await shared.registers.items() == [("a", {"v": 1})]
                assert await shared.registers.below("a") == [("", {"v": 1})]
                assert await shared.counter("steps").value() == 2
                assert await shared.set("workers").elements() == ["w1"]
                await shared.text("notes").append("hello")
                assert await shared.text("notes").value() == "hello"
                await shared.list("steps").append(1, 2)
                assert await shared.claims("jobs").claim("job", 60)
                with shared.changes() as theirs:
                    await shared.registers.set("b", 2)
                    assert await theirs.receive(timeout=60) == Change(Kind.REGISTER, "b")
                await shared.synced(timeout=60)
                assert await shared.root() == document.root
                assert await shared.call(lambda _: two.peer_id) == two.peer_id

        asyncio.run(other())
        assert document.registers["b"] == 2
        assert dict(document.registers) == {"a": {"v": 1}, "b": 2}
        assert str(document.text("notes")) == "hello"
        document.list("steps")[0] = 0
        assert list(document.list("steps")) == [0, 2]
        assert len(document.set("workers")) == 1
        assert "job" in [item for item, _ in document.claims("jobs").held()]
        seen = [changes.receive(timeout=60) for _ in range(4)]
        assert Change(Kind.CLAIM, "jobs", "job") in seen
        assert Change(Kind.REGISTER, "b") in seen
        with pytest.raises(TimeoutError):
            changes.receive(timeout=0.05)
        with pytest.raises(KeyError):
            document.registers["none"]
        waiting = threading.Thread(target=lambda: list(changes))
        waiting.start()
        document.close()
        waiting.join(60)
        assert not waiting.is_alive()
        with pytest.raises(LocalProtocolError):
            document.synced(timeout=1)


def test_what_one_erases_goes_at_the_other():
    with Lattica(node_config()) as one:
        document = one.documents.open("cluster")
        document.registers["a"] = "secret"
        first = document.entries()[-1]

        async def other() -> None:
            async with AsyncLattica(node_config()) as two:
                await two.connect(one.addrs)
                shared = await two.documents.open(document.id)
                await shared.synced(timeout=60)
                with pytest.raises(AccessDeniedError, match="another peer's"):
                    await shared.erase(first)
                with pytest.raises(LocalProtocolError, match="write over it first"):
                    document.erase(first.id)
                with shared.changes() as theirs:
                    document.registers["a"] = "public"
                    assert document.erase(first.id.hex()) == 1
                    while await theirs.receive(timeout=60) != ErasedChange():
                        pass
                await shared.synced(timeout=60)
                assert await shared.root() == document.root
                listed = {each.id: each.is_erased for each in await shared.entries()}
                assert [each for each, is_erased in listed.items() if is_erased] == [first.id]
                # What is one's own goes in the same way.
                await shared.registers.set("b", 1)
                await shared.registers.set("b", 2)
                assert await shared.erase((await shared.entries())[-2]) == 1

        asyncio.run(other())


def test_owners_are_appointed_by_threads_and_in_asyncio():
    key = Identity.generate()
    recovery = Recovery(1, (key.public_key.data,))

    def contradict(each: SharedDocument) -> None:
        session, last = each._replica._session, each._replica.database.entry(each.author, 1)
        assert session is not None
        header = last.header
        other = sign_entry(session, header.doc_id, 1, header.prev_id, header.hlc, 1, b"\xc0")
        each.receive(encode_chain([other], with_prev=True), "peer")

    with Lattica(node_config()) as node:
        document = node.documents.create("models", recovery=recovery)
        document.registers["a"] = 1
        document.call(contradict)
        assert document.owners()[0].is_frozen
        with pytest.raises(AccessDeniedError, match="contradicted itself"):
            document.grant(key.peer_id)
        made = document.appoint(node.peer_id, by=key)
        assert document.sign_appointment(made, by=key) == made
        assert document.read_appointment(made).is_enough
        document.present(made)
        document.take_office()
        assert not document.owners()[0].is_frozen
        document.grant(key.peer_id)

    async def work() -> None:
        async with AsyncLattica(node_config()) as node:
            document = await node.documents.create("models", recovery=recovery)
            await document.registers.set("a", 1)
            await document.call(contradict)
            made = await document.appoint(node.peer_id, by=key)
            assert await document.sign_appointment(made, by=key) == made
            assert (await document.read_appointment(made)).is_enough
            await document.present(made)
            await document.take_office()
            assert not (await document.owners())[0].is_frozen

    asyncio.run(work())


def test_the_uses_work_on_a_document_of_threads():
    with Lattica(node_config()) as node, node.documents.open("cluster") as document:
        queue = WorkQueue(document)
        queue.add("task", {"n": 1})
        task = queue.take()
        assert task is not None
        assert queue.is_mine(task)
        assert queue.finish(task, "done")
        assert queue.results() == {"task": "done"}
        assert document.registers.below("queues/jobs/results/") == [("task", ["done"])]
        registry = ModelRegistry(document)
        assert registry.publish("chat", "1", "cid").published_by == node.peer_id
        registry.promote("chat", "1")
        assert registry.current("chat") == registry.versions("chat")[0]
        members = Membership(document, node.peer_id)
        members.join(node.addrs, load=0.5)
        assert [(each.peer, each.load) for each in members.workers()] == [(node.peer_id, 0.5)]


def test_the_uses_work_in_asyncio_a_function_at_a_time():
    async def work() -> None:
        async with AsyncLattica(node_config()) as node, await node.documents.open("x") as document:

            def add_and_take(each: SharedDocument) -> Task | None:
                queue = WorkQueue(each)
                queue.add("task", {"n": 1})
                return queue.take()

            task = await document.call(add_and_take)
            assert task is not None
            assert task.payload == {"n": 1}
            assert await document.call(lambda each: WorkQueue(each).is_mine(task))
            with pytest.raises(LocalProtocolError, match="no version"):
                await document.call(lambda each: ModelRegistry(each).promote("chat", "1"))

    asyncio.run(work())
    with Lattica(node_config()) as node, node.documents.open("x") as document:
        assert document.call(lambda each: ModelRegistry(each).models()) == []
