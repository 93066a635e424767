"""Names of real nodes on loopback: asked of their owner, found in the DHT, and followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from lattica import Identity, Lattica, Node, load_config
from lattica.config import NodeConfig
from lattica.content import Cid, FetchResult, Publisher
from lattica.content.names.following import follow
from lattica.content.names.record import NameRef, NameTarget
from lattica.content.names.resolver import NameResolver
from lattica.content.names.service import open_names
from lattica.errors import LatticaError, NameNotFoundError
from tools.bench.dht.real import real_network

FIRST, SECOND = NameTarget(Cid.of(b"1")), NameTarget(Cid.of(b"2"), Cid.of(b"d"))


def config(**settings: object) -> NodeConfig:
    overrides = {"listen": ["/ip4/127.0.0.1/tcp/0"], **settings}
    return load_config(
        environment={"LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}, overrides=overrides
    )


async def test_the_owner_answers_and_says_what_is_new():
    async with Node(config()) as owner, Node(config()) as node, open_names(owner) as names:
        ref = NameRef(owner.peer_id, "org/model", owner.addrs)
        resolver = NameResolver(node)
        with pytest.raises(NameNotFoundError, match="does not have it") as caught:
            await resolver.resolve(ref)
        assert caught.value.is_denied
        first = names.publish("org/model", FIRST)
        assert await resolver.resolve(ref) == first
        async with trio.open_nursery() as nursery:
            found = []

            async def wait() -> None:
                found.append(await resolver.wait_newer(ref, first.sequence))

            nursery.start_soon(wait)
            while not names.watchers:
                await trio.sleep(0.01)
            names.publish("other", FIRST)
            second = names.publish("org/model", SECOND)
        assert found == [second]
        assert (second.target, second.sequence > first.sequence) == (SECOND, True)


async def test_own_names_are_read_where_they_are():
    async with Node(config()) as node, trio.open_nursery() as nursery:
        resolver, ref = NameResolver(node), NameRef(node.peer_id, "model", node.addrs)
        with pytest.raises(NameNotFoundError, match="no names open") as caught:
            await resolver.resolve(ref)
        assert not caught.value.is_denied
        async with open_names(node) as names:
            with pytest.raises(NameNotFoundError, match="does not have it") as caught:
                await resolver.resolve(ref)
            assert caught.value.is_denied
            first = names.publish("model", FIRST)
            assert await resolver.resolve(ref) == first
            found = []

            async def wait() -> None:
                found.append(await resolver.wait_newer(ref, first.sequence))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not found
            second = names.publish("model", SECOND)
            with trio.fail_after(60):
                while not found:
                    await trio.sleep(0.01)
            assert found == [second]
            with trio.fail_after(60):
                async with trio.open_nursery() as closing:
                    closing.start_soon(names.newer, "model", second.sequence)
                    await trio.testing.wait_all_tasks_blocked()
                    names.close()
        with pytest.raises(NameNotFoundError, match="no names open"):
            await resolver.resolve(ref)


async def test_an_owner_that_cannot_be_asked_denies_nothing():
    async with Node(config()) as node:
        gone = NameRef.parse(f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}/model")
        with pytest.raises(NameNotFoundError, match="could not be asked") as caught:
            await NameResolver(node).resolve(gone)
        assert not caught.value.is_denied


async def test_the_dht_knows_when_the_owner_is_gone():
    async with real_network(4) as network:
        *others, owner = network.nodes
        async with open_names(owner) as names:
            record = names.publish("model", SECOND)
            ref = NameRef(owner.peer_id, "model")
            while await others[0].dht.get(f"/p2p/{owner.peer_id}/name/model") is None:
                await trio.sleep(0.05)
        # It serves its names no more.
        found = await NameResolver(others[1]).resolve(ref)
        assert (found.target, found.owner) == (SECOND, owner.peer_id)
        assert found.sequence >= record.sequence


async def test_the_dht_knows_that_a_name_is_withdrawn():
    async with real_network(3) as network:
        *others, owner = network.nodes
        ref = NameRef(owner.peer_id, "model")
        async with open_names(owner) as names:
            names.publish("model", FIRST)
            names.withdraw(FIRST.cid)
        # Ending, it still says what is withdrawn.
        with pytest.raises(NameNotFoundError, match="withdrawn") as caught:
            await NameResolver(others[0]).resolve(ref)
        assert caught.value.is_denied
        async with open_names(owner) as names:
            names.publish("model", SECOND)
            resolver = NameResolver(others[0])
            assert (await resolver.resolve(ref)).target == SECOND


async def test_a_directory_is_kept_what_a_fileleads_to(tmp_path: Path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    results: list[FetchResult] = []
    problems: list[LatticaError] = []
    came = trio.Event()

    async def on_version(result: FetchResult) -> None:
        nonlocal came
        results.append(result)
        came.set()
        came = trio.Event()

    async def on_problem(error: LatticaError) -> None:
        problems.append(error)

    async def publish(files: dict[str, str], name: str = "model") -> None:
        for path in source.iterdir():
            path.unlink()
        for file, text in files.items():
            (source / file).write_text(text)
        ticket = await publisher.publish(source)
        names.publish(name, NameTarget(ticket.cid))

    def here() -> dict[str, str]:
        return {path.name: path.read_text() for path in out.iterdir()}

    async with (
        Node(config()) as owner,
        Node(config()) as node,
        Publisher(owner) as publisher,
        open_names(owner) as names,
        trio.open_nursery() as nursery,
    ):
        await publish({"a": "1", "b": "1"})
        ref = NameRef(owner.peer_id, "model", owner.addrs)

        async def run() -> None:
            await follow(node, ref, out, on_version=on_version, on_problem=on_problem)

        for files in ({"a": "1", "b": "1"}, {"a": "2", "c": "2"}, {"c": "3"}):
            expected = came
            if results:
                await publish(files)
            else:
                nursery.start_soon(run)
            with trio.fail_after(60):
                await expected.wait()
            assert here() == files
            (out / "mine").write_text("kept")
            assert here() == {**files, "mine": "kept"}
            (out / "mine").unlink()
        assert not problems
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("dht", [False, True])
def test_from_threads(tmp_path: Path, dht: bool):
    (tmp_path / "file").write_text("text")
    with Lattica(config(**{"dht.enabled": dht})) as owner, Lattica(config()) as node:
        ticket = owner.publish(tmp_path / "file", "my-file")
        address = owner.addrs[0]
        result = node.fetch(f"{address}/my-file", tmp_path / "out")
        assert result.cid == ticket.cid
    assert (tmp_path / "out" / "file").read_text() == "text"


def test_state_dicts_from_threads(tmp_path: Path):
    state = {"w": np.arange(100_000, dtype=np.float32), "b": np.ones(3, np.int64)}
    into = {name: np.zeros_like(array) for name, array in state.items()}
    with Lattica(config()) as owner, Lattica(config()) as node:
        ticket = owner.publish_state_dict(state, tmp_path, "weights")
        loaded = node.load_state_dict(f"{owner.addrs[0]}/weights", into)
        assert (loaded.cid, loaded.missing) == (ticket.cid, ())
    for name, array in state.items():
        np.testing.assert_array_equal(into[name], array)
