"""Documents between real nodes: directly, through a relay, and with one whose process is killed."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lattica.crdt.config import StoreConfig
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.store.store import Store
from lattica.crdt.sync.messages import find_key
from lattica.crdt.types.payloads import RegisterWrite
from lattica.node import Node
from tests.support.doubles.swarm_host import SwarmHost
from tests.support.nets.nets import node_config
from tests.support.nets.relayed import relayed_pair


async def test_nodes_share_a_document_and_keep_it_as_long_as_their_keys(tmp_path: Path):
    path = tmp_path / "identity.key"
    config = replace(node_config(), identity_path=path, data_dir=tmp_path)
    async with Node(config) as one, Node(node_config()) as two:
        await two.connect(one.addrs)
        first = await one.store.open("cluster")
        second = await two.store.open("cluster")
        first.registers["model/latest"] = "v1"
        second.set("workers").add("w2")
        await second.synced(timeout=60)
        await first.synced(timeout=60)
        assert second.registers["model/latest"] == "v1"
        assert first.root == second.root
        temporary = two.store.folder
        assert temporary.is_dir()
        assert one.store.folder.is_relative_to(tmp_path)
    assert not temporary.exists()
    async with Node(config) as again:
        document = await again.store.open("cluster")
        assert document.root == first.root
        assert list(document.set("workers")) == ["w2"]


async def test_a_node_that_ends_as_soon_as_a_document_is_open_logs_no_error(
    caplog: pytest.LogCaptureFixture,
):
    for _ in range(3):
        async with Node(node_config()) as node:
            await node.store.open("cluster")
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_document_is_replicated_through_a_relay(tmp_path: Path):
    async with relayed_pair() as pair, trio.open_nursery() as nursery:
        stores = [
            Store(
                SwarmHost(swarm),
                nursery,
                swarm.identity,
                tmp_path / str(number),
                StoreConfig(sync_interval=3600),
            )
            for number, swarm in enumerate((pair.source, pair.target))
        ]
        with trio.fail_after(60):
            first = await stores[0].create("models")
            first.grant(pair.target.identity.peer_id)
            first.write(*(RegisterWrite(f"{number % 50}", number) for number in range(2000)))
            second = await stores[1].open(first.id)
            await second.synced()
            assert second.root == first.root
            with first.changes() as changes:
                second.registers["news"] = "arrives"
                await anext(changes)
            assert first.registers["news"] == "arrives"
        for store in stores:
            await store.aclose()
        nursery.cancel_scope.cancel()


_WORKER = """
import sys
from pathlib import Path
import trio
from lattica.config import load_config
from lattica.node import Node

async def main():
    config = load_config(environment={}, overrides={
        "listen": ["/ip4/127.0.0.1/tcp/0"],
        "bootstrap": [sys.argv[2]],
        "identity_path": Path(sys.argv[1]) / "identity.key",
        "data_dir": Path(sys.argv[1]),
        "nat.port_mapping.enabled": False,
    })
    async with Node(config) as node:
        document = await node.store.open("cluster")
        print("ready", flush=True)
        for number in range(10**9):
            document.counter("steps").add(1)
            print(document.author.hex(), flush=True)
            await trio.sleep(0.001)
        await trio.sleep(3600)

trio.run(main)
"""


async def test_what_a_killed_worker_has_acknowledged_reaches_the_others(tmp_path: Path):
    acknowledged = 0
    authors: set[str] = set()
    async with Node(node_config()) as node:
        document = await node.store.open("cluster")
        address = str(node.addrs[0])
        for kills in (15, 40, 3):
            with subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(tmp_path), address],
                stdout=subprocess.PIPE,
                text=True,
            ) as worker:
                output = worker.stdout
                assert output is not None
                lines = [await trio.to_thread.run_sync(output.readline) for _ in range(kills + 1)]
                worker.send_signal(signal.SIGKILL)
                lines += await trio.to_thread.run_sync(output.readlines)
            assert lines[0] == "ready\n"
            whole = [line.strip() for line in lines[1:] if line.endswith("\n")]
            acknowledged += len(whole)
            authors |= set(whole)
        # One that writes no more, so that what was still on its way arrives.
        with subprocess.Popen(
            [sys.executable, "-c", _WORKER.replace("10**9", "0"), str(tmp_path), address],
            stdout=subprocess.PIPE,
        ) as last:
            with trio.fail_after(60):
                while document.counter("steps").value < acknowledged:
                    await trio.sleep(0.05)
            last.kill()
        # What is written and not yet acknowledged may be there, too: one of each life at most.
        assert acknowledged <= document.counter("steps").value <= acknowledged + 3
        assert len(authors) == 1
        assert not list(document.forks())


async def test_news_goes_along_the_topic_of_the_document_to_who_is_not_connected():
    config = replace(node_config(), store=StoreConfig(sync_interval=3600))
    async with Node(config) as hub, Node(config) as one, Node(config) as two:
        documents = [await node.store.open("cluster") for node in (hub, one, two)]
        for node in (one, two):
            await node.connect(hub.addrs)
        (name,) = {replicator_topic(document) for document in documents}
        with trio.fail_after(60):
            for node in (one, two):
                await node.topic(name).wait_peers(1)
            await hub.topic(name).wait_peers(2)
            for document in documents:
                await document.synced()
            with documents[2].changes() as changes:
                documents[1].registers["a"] = 1
                async for _ in changes:
                    if documents[2].registers.get("a") == 1:
                        break
        assert documents[0].registers["a"] == 1
        assert one.topics.counters.published >= 1


def replicator_topic(document: SharedDocument) -> str:
    return f"lattica/crdt/{find_key(document.genesis.doc_id).hex()}"
