"""Registry, membership and work queue, over documents that write apart and meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.crdt.document import Document
from lattica.crdt.uses.membership import Membership
from lattica.crdt.uses.model_registry import ModelRegistry
from lattica.crdt.uses.work_queue import WorkQueue
from lattica.errors import LocalProtocolError
from lattica.facades.store.aio import AsyncDocument
from lattica.nat.base.keys.identity import Identity, PeerId
from tests.support.crdt.chains import START
from tests.support.crdt.documents import Clock, replicas
from tests.support.crdt.sync import exchange

IDENTITIES = [Identity(bytes([number]) * 32) for number in range(1, 4)]


class Presence:
    """One for all, as if everybody were connected."""

    said: dict[PeerId, object]

    def __init__(self, said: dict[PeerId, object], peer: PeerId) -> None:
        self.said, self.peer = said, peer

    def set(self, value: object = None) -> None:
        self.said[self.peer] = value

    def clear(self) -> None:
        self.said.pop(self.peer, None)

    def peers(self) -> dict[PeerId, object]:
        return dict(self.said)


@pytest.fixture
def documents(tmp_path: Path, clock: Clock) -> Iterator[list[Document]]:
    said: dict[PeerId, object] = {}
    with replicas(tmp_path, IDENTITIES, clock) as made:
        for document, identity in zip(made, IDENTITIES, strict=True):
            document.presence = Presence(said, identity.peer_id)  # type: ignore[attr-defined]
        yield made


def sync(documents: list[Document]) -> None:
    for _ in range(2):
        for one, other in itertools.combinations(documents, 2):
            exchange(one, other)


@pytest.mark.parametrize("use", [ModelRegistry, WorkQueue])
def test_a_document_of_asyncio_is_told_how_it_is_used(use):
    document = object.__new__(AsyncDocument)
    with pytest.raises(TypeError, match=r"await document\.call"):
        use(document)


def test_a_version_is_a_text(documents):
    with pytest.raises(LocalProtocolError, match=r"a version is a text without slashes.*: 7"):
        ModelRegistry(documents[0]).publish("chat", 7, "cid")  # type: ignore[arg-type]


def test_a_task_and_a_term_are_what_they_are(documents):
    queue = WorkQueue(documents[0])
    for use in (queue.finish, queue.renew, queue.give_back, queue.is_mine):
        with pytest.raises(LocalProtocolError, match=r"task: a Task, .*, not 'a' of type"):
            use("a")  # type: ignore[arg-type]
    with pytest.raises(
        LocalProtocolError, match="term: a positive number of seconds up to 86400, not '5'"
    ):
        WorkQueue(documents[0], term="5")  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="content: a content id"):
        ModelRegistry(documents[0]).publish("chat", "1", 7)  # type: ignore[arg-type]


def test_versions_are_published_promoted_and_rolled_back(documents):
    one, two = (ModelRegistry(each) for each in documents[:2])
    one.publish("chat", "1", "cid-1", {"loss": 0.5})
    one.promote("chat", "1")
    sync(documents)
    made = two.publish("chat", "2", "cid-2")
    two.promote("chat", "2")
    sync(documents)
    current = one.current("chat")
    assert current == made
    assert current.published_by == IDENTITIES[1].peer_id
    assert current.published_at > START
    assert [each.version for each in one.versions("chat")] == ["1", "2"]
    assert one.versions("chat")[0].info == {"loss": 0.5}
    assert one.roll_back("chat").version == "1"
    sync(documents)
    assert two.current("chat") == one.versions("chat")[0]
    assert two.models() == ["chat"]
    with pytest.raises(LocalProtocolError, match="no version of 'chat' was in use before"):
        two.roll_back("chat")
    with pytest.raises(LocalProtocolError, match="other content"):
        two.publish("chat", "1", "another")
    for name in ("", "a/b"):
        with pytest.raises(LocalProtocolError, match="without slashes"):
            one.publish(name, "1", "cid")
    with pytest.raises(LocalProtocolError, match="no version '3'"):
        one.promote("chat", "3")


def test_workers_are_known_and_here_while_they_say_so(documents):
    one, two = (
        Membership(document, identity.peer_id)
        for document, identity in zip(documents[:2], IDENTITIES, strict=False)
    )
    one.join(["/ip4/192.0.2.1/tcp/1"], load=0.9, info={"gpus": 8})
    two.join(load=0.1)
    sync(documents)
    busy = two.workers()
    assert [each.peer for each in busy] == [IDENTITIES[1].peer_id, IDENTITIES[0].peer_id]
    assert busy[1].addresses == ("/ip4/192.0.2.1/tcp/1",)
    assert (busy[1].load, busy[1].info) == (0.9, {"gpus": 8})
    one.update(0.0)
    assert two.workers()[0].peer == IDENTITIES[0].peer_id
    documents[0].presence.clear()
    assert len(two.workers()) == 1
    assert [each.is_here for each in two.workers(only_here=False)] == [True, False]
    # Nobody says for another what he is.
    documents[2].registers[f"workers/{IDENTITIES[1].peer_id}"] = {"addresses": [], "info": {}}
    sync(documents)
    assert one.workers() == []
    # And whoever is there says it again.
    entries = len([*documents[1].entries()])
    for _ in range(3):
        two.update(0.3)
    assert len([*documents[1].entries()]) == entries + 1
    sync(documents)
    assert [(each.peer, each.load) for each in one.workers()] == [(IDENTITIES[1].peer_id, 0.3)]
    two.leave()
    sync(documents)
    assert len(one.workers(only_here=False)) == 1


def test_a_task_that_is_removed_is_not_done_and_may_come_again(documents):
    one, two = (WorkQueue(document) for document in documents[:2])
    for task_id in ("a", "b"):
        one.add(task_id, 1)
    held = one.take()
    done = one.take()
    assert held is not None
    assert done is not None
    assert one.finish(done, "result")
    sync(documents)
    assert two.remove(done.id)
    assert two.remove(held.id)
    assert not two.remove(held.id)
    sync(documents)
    assert not one.finish(held, "in vain")
    sync(documents)
    for queue in (one, two):
        assert (queue.tasks(), queue.results(), queue.waiting(), queue.take()) == ({}, {}, [], None)
    one.add(done.id, 2)
    taken = one.take()
    assert taken is not None
    assert (taken.id, taken.payload, taken.attempts) == (done.id, 2, 2)


def test_what_a_dead_worker_has_taken_another_one_takes(documents, clock):
    queues = [WorkQueue(document, term=30) for document in documents]
    for number in range(4):
        queues[0].add(f"task-{number}", {"number": number})
    sync(documents)
    first = queues[0].take()
    sync(documents)
    second = queues[1].take()
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert queues[1].finish(second, "done")
    assert not queues[1].finish(second, "again")
    sync(documents)
    assert queues[2].results() == {second.id: "done"}
    assert first.id not in queues[2].waiting()
    # The first one dies. When its term is over, what it had is taken by whoever comes.
    clock.ms += 31_000
    assert first.id in queues[2].waiting()
    taken = [queues[2].take() for _ in range(4)]
    assert taken[3] is None
    again = next(each for each in taken if each is not None and each.id == first.id)
    assert again.attempts == 2
    queues[0].renew(first)  # it was only slow, and has not heard of anybody
    sync(documents)
    assert not queues[0].is_mine(first)
    assert queues[2].is_mine(again)
    for each in taken[:3]:
        assert each is not None
        queues[2].finish(each, each.payload["number"])  # type: ignore[index, call-overload]
    sync(documents)
    assert queues[0].results().keys() == queues[0].tasks().keys()
    assert queues[0].take() is None


def test_of_two_that_take_one_task_apart_one_holds_it(documents):
    queues = [WorkQueue(document) for document in documents[:2]]
    queues[0].add("only")
    sync(documents)
    tasks = [queue.take() for queue in queues]
    assert all(tasks)
    sync(documents)
    mine = [queue.is_mine(task) for queue, task in zip(queues, tasks, strict=True) if task]
    assert sorted(mine) == [False, True]


def test_a_task_that_fails_again_and_again_is_given_up(documents, clock):
    queue = WorkQueue(documents[0], max_attempts=2)
    queue.add("poison")
    for _ in range(2):
        task = queue.take()
        assert task is not None
        queue.give_back(task)
    assert queue.take() is None
    assert queue.failed() == ["poison"]
