"""What is erased, between nodes: who is late, begins with a snapshot, or has lost too much."""

from __future__ import annotations

import trio

from lattica.crdt.entries.erasure import target_of
from lattica.crdt.store.changes import ErasedChange
from tests.support.crdt.chains import Eraser
from tests.support.crdt.sync import take
from tests.unit.crdt.document.test_erasing import written
from tests.unit.crdt.store.test_store import host_of, stores


async def test_a_fresh_node_gets_what_is_left_of_a_document_that_was_pruned(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first = await one.open("cluster")
        for value in range(6):
            first.registers["a"] = value
            first.registers["b"] = value
        first.erase(*written(first, "a")[2:4])
        assert first.prune(0)
        second = await two.open("cluster")
        await host_of(two).connect(host_of(one).peer_id)
        await second.synced(timeout=60)
        assert (second.root, second.heads()) == (first.root, first.heads())
        with second.changes() as changes:
            first.registers["b"] = "new"
            first.erase(written(first, "b")[0])
            with trio.fail_after(600):
                while await anext(changes) != ErasedChange():
                    pass
        assert [each.is_erased for each in written(second, "b")] == [False]
        assert second.root == first.root


async def test_a_node_has_from_another_one_what_was_erased_in_vain(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        eraser = Eraser(b"a", first.genesis)
        ms = first.now_ms - 60_000
        chain = [eraser.next(None, ms << 16)]
        chain.append(eraser.next(chain[-1], (ms + 1) << 16))
        erasing = eraser.erasing(chain[-1], target_of(chain[-1].header))
        other = eraser.next(chain[-1], (ms + 9) << 16, "other")
        take(first, *chain, erasing)
        take(first, other)
        take(second, *chain, other)
        assert "key" not in first.registers
        await host_of(one).connect(host_of(two).peer_id)
        await first.synced(timeout=60)
        await second.synced(timeout=60)
        assert first.registers["key"] == second.registers["key"] == "value"
        assert first.root == second.root
