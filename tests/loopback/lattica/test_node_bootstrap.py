"""A node stays connected to its bootstrap peers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.config import NodeConfig
from lattica.errors import AddressError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.node import Node
from tests.support.nets.nets import (
    ECHO,
    advance,
    ask_echo,
    black_hole,
    echo,
    mute_listener,
    node_config,
    proxied,
    settled,
    swarm_config,
    tasks,
    unused_port,
)


def hub_at(port: int = 0, identity: Identity | None = None, **changes: Any) -> Node:
    config = node_config(listen=(f"/ip4/127.0.0.1/tcp/{port}",), **changes)
    hub = Node(config, identity=identity)
    hub.handle(ECHO, echo)
    return hub


def node_with(*bootstrap: str | Multiaddr, **changes: Any) -> Node:
    return Node(
        NodeConfig(swarm=swarm_config(listen=(), **changes), bootstrap=tuple(map(str, bootstrap)))
    )


def bare(hub: Node) -> Multiaddr:
    return split_peer(hub.addrs[0])[0]


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What the node told about its bootstrap peers."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "lattica.node.bootstrap" and record.levelno >= level
    ]


class Dials:
    """Counts a node's dials, and how many of them run at the same time."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addrs: list[tuple[str, ...]] = []
        self.now = self.most = 0
        self._dial = node.swarm.dial
        monkeypatch.setattr(node.swarm, "dial", self.dial)

    async def dial(self, peer_id: Any, addrs: Any) -> Any:
        self.addrs.append(tuple(map(str, addrs)))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._dial(peer_id, addrs)
        finally:
            self.now -= 1


@contextmanager
def counted_listener() -> Iterator[tuple[str, socket.socket]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(10)
        listener.setblocking(False)
        yield f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}", listener


# --- connecting ---


async def test_it_connects_and_says_who_is_unreachable_once(caplog, mock_clock):
    caplog.set_level(logging.DEBUG, "lattica")
    async with hub_at() as hub:
        gone = Identity.generate().peer_id
        unreachable = f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{gone}"
        async with node_with(hub.addrs[0], unreachable) as node:
            await node.wait_connected(hub.peer_id)
            await advance(mock_clock, 20)
            (line,) = said(caplog)
            assert f"unreachable: cannot connect to {gone}" in line
            assert "ECONNREFUSED" in line
            assert "check that it runs" in line
            assert line.endswith(f"peer={gone}")
            attempts = [words for words in said(caplog, logging.DEBUG) if "attempt failed" in words]
            assert len(attempts) >= 4
            assert "Traceback" not in caplog.text


async def test_a_peer_that_starts_later(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    identity, port = Identity.generate(), unused_port()
    async with node_with(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}") as node:
        await advance(mock_clock, 10)
        assert not node.is_connected(identity.peer_id)
        async with hub_at(port, identity):
            await advance(mock_clock, 16)
            assert await ask_echo(node, identity.peer_id) == b"hello"
            await advance(mock_clock, 4)
            unreachable, back = said(caplog)
    assert "unreachable" in unreachable
    assert back == f"bootstrap peer is back peer={identity.peer_id}"


async def test_its_address_may_be_used_by_the_application_at_once():
    async with hub_at() as hub, node_with(hub.addrs[0]) as node:
        assert await ask_echo(node, hub.peer_id) == b"hello"


async def test_all_addresses_of_a_peer_are_one_attempt(mock_clock, monkeypatch):
    identity = Identity.generate()
    ports = [unused_port() for _ in range(2)]
    addrs = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}" for port in ports]
    node = node_with(*addrs)
    dials = Dials(node, monkeypatch)
    async with node:
        await advance(mock_clock, 10)
        assert 3 <= len(dials.addrs) <= 7
        assert dials.most == 1
        assert {f"/ip4/127.0.0.1/tcp/{port}" for port in ports} <= set(dials.addrs[0])
        async with hub_at(ports[1], identity):
            await advance(mock_clock, 16)
            assert node.is_connected(identity.peer_id)


async def test_one_attempt_after_the_other_with_a_peer_that_does_not_answer(
    mock_clock, monkeypatch
):
    with mute_listener() as mute:
        node = node_with(f"{mute}/p2p/{Identity.generate().peer_id}")
        dials = Dials(node, monkeypatch)
        async with node:
            await advance(mock_clock, 14)
            assert len(dials.addrs) == 1
            await advance(mock_clock, 40)
            assert len(dials.addrs) == 4  # 15 s each, and short pauses
            assert dials.most == 1


async def test_a_peer_that_only_the_name_of_is_known(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    async with hub_at() as hub, node_with(f"/p2p/{hub.peer_id}") as node:
        await settled(lambda: "no address" in caplog.text)
        node.add_address(hub.peer_id, hub.addrs[0])
        await advance(mock_clock, 1.5)
        assert node.is_connected(hub.peer_id)


# --- connections that are lost ---


async def test_a_lost_connection_is_replaced_at_once(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    async with hub_at() as hub, node_with(hub.addrs[0]) as node:
        for _ in range(5):
            await node.wait_connected(hub.peer_id)
            await hub.wait_connected(node.peer_id)
            await advance(mock_clock, 61, 1)
            before = node.swarm.registry.best(hub.peer_id)
            assert before is not None
            # The clock stands still.
            await hub.disconnect(node.peer_id)
            await before.closed.wait()
            await node.wait_connected(hub.peer_id)
            await settled(lambda: hub.is_connected(node.peer_id))
    assert said(caplog) == []


async def test_a_peer_that_restarts(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    identity, port = Identity.generate(), unused_port()
    async with node_with(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}") as node:
        for _ in range(3):
            async with hub_at(port, identity):
                await advance(mock_clock, 10)
                assert node.is_connected(identity.peer_id)
            await settled(lambda: not node.is_connected(identity.peer_id))
            await advance(mock_clock, 5)
            assert not node.is_connected(identity.peer_id)
    assert ["back" in line for line in said(caplog)[-5:]] == [False, True, False, True, False]


async def test_a_path_that_dies_without_a_word(mock_clock):
    """As for a phone that changes networks."""
    async with (
        hub_at() as hub,
        proxied(bare(hub)) as proxy,
        node_with(f"{proxy.addr}/p2p/{hub.peer_id}") as node,
    ):
        await node.wait_connected(hub.peer_id)
        before = node.swarm.registry.best(hub.peer_id)
        proxy.freeze()
        await advance(mock_clock, 14)
        proxy.thaw()
        await advance(mock_clock, 16)
        assert node.is_connected(hub.peer_id)
        assert node.swarm.registry.best(hub.peer_id) is not before


async def test_a_peer_that_does_not_let_us_in_is_not_dialed_without_end(
    caplog, mock_clock, monkeypatch
):
    caplog.set_level(logging.INFO, "lattica")
    identity = Identity.generate()
    rules = AccessRules(deny_peers=(str(identity.peer_id),))
    async with hub_at(access=rules) as hub:
        config = NodeConfig(swarm=swarm_config(listen=()), bootstrap=(str(hub.addrs[0]),))
        node = Node(config, identity=identity)
        dials = Dials(node, monkeypatch)
        async with node:
            await advance(mock_clock, 120)
            assert 5 <= len(dials.addrs) <= 12
    (line,) = said(caplog)
    assert "unreachable" in line


async def test_a_peer_that_comes_by_itself_is_not_dialed(mock_clock, monkeypatch):
    identity = Identity.generate()
    config = NodeConfig(
        swarm=swarm_config(),
        bootstrap=(f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{identity.peer_id}",),
    )
    node = Node(config)
    dials = Dials(node, monkeypatch)
    async with node, hub_at(identity=identity) as other:
        await other.connect(node.addrs[0])
        await node.wait_connected(identity.peer_id)
        before = len(dials.addrs)
        await advance(mock_clock, 100, 1)
        assert len(dials.addrs) == before
        await other.disconnect(node.peer_id)
        await settled(lambda: len(dials.addrs) > before)


async def test_its_peers_are_not_trimmed():
    async with hub_at() as hub, node_with(hub.addrs[0]) as node:
        tags = node.swarm.registry.tags
        assert tags.is_protected(hub.peer_id)
        await node.wait_connected(hub.peer_id)
        await node.disconnect(hub.peer_id)
        assert not tags.is_protected(hub.peer_id)
        await node.connect(hub.peer_id)
        assert tags.is_protected(hub.peer_id)


async def test_a_defect_costs_an_attempt_and_not_the_node(caplog, mock_clock, monkeypatch):
    async with hub_at() as hub:
        node = node_with(hub.addrs[0])
        dial, failures = node.swarm.dial, [ZeroDivisionError("a defect")]

        async def fail_first(*args):
            if failures:
                raise failures.pop()
            return await dial(*args)

        monkeypatch.setattr(node.swarm, "dial", fail_first)
        async with node:
            await advance(mock_clock, 2)
            assert node.is_connected(hub.peer_id)
    assert "ZeroDivisionError: a defect" in caplog.text


# --- disconnecting on purpose ---


async def test_disconnecting_is_respected(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    async with hub_at() as hub, node_with(hub.addrs[0]) as node:
        await node.wait_connected(hub.peer_id)
        await node.disconnect(hub.peer_id)
        await advance(mock_clock, 100, 1)
        assert not node.is_connected(hub.peer_id)
        # Until it is wanted again.
        await node.connect(hub.peer_id)
        await advance(mock_clock, 61, 1)
        await hub.disconnect(node.peer_id)
        await settled(lambda: hub.is_connected(node.peer_id))
        await node.disconnect(hub.peer_id)
        assert await ask_echo(node, hub.peer_id) == b"hello"
        await advance(mock_clock, 61, 1)
        await hub.disconnect(node.peer_id)
        await settled(lambda: hub.is_connected(node.peer_id))
    assert said(caplog) == []


async def test_disconnecting_while_it_is_dialed(mock_clock, monkeypatch):
    with mute_listener() as mute:
        stranger = Identity.generate().peer_id
        node = node_with(f"{mute}/p2p/{stranger}")
        dials = Dials(node, monkeypatch)
        async with node:
            await settled(lambda: dials.now)
            await node.disconnect(stranger)
            await settled(lambda: not dials.now)
            await advance(mock_clock, 100, 1)
            assert len(dials.addrs) == 1


async def test_disconnecting_while_it_is_unreachable(mock_clock, monkeypatch):
    stranger = Identity.generate().peer_id
    node = node_with(f"/ip4/127.0.0.1/tcp/{unused_port()}/p2p/{stranger}")
    dials = Dials(node, monkeypatch)
    async with node:
        await settled(lambda: dials.addrs and not dials.now)
        await node.disconnect(stranger)
        await advance(mock_clock, 100, 1)
        assert len(dials.addrs) == 1


# --- addresses without a peer ID ---


async def test_an_address_without_a_peer(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    port = unused_port()
    addr = f"/ip4/127.0.0.1/tcp/{port}"
    async with node_with(addr) as node:
        await settled(lambda: said(caplog))
        assert said(caplog)[0].endswith(f"peer={addr}")
        async with hub_at(port) as hub:
            await advance(mock_clock, 5)
            assert node.is_connected(hub.peer_id)
            assert node.swarm.registry.tags.is_protected(hub.peer_id)
            # What was learned can be used, and lost.
            await node.disconnect(hub.peer_id)
            await advance(mock_clock, 100, 1)
            assert not node.is_connected(hub.peer_id)
            await node.connect(hub.peer_id)
            await advance(mock_clock, 61, 1)
            await hub.disconnect(node.peer_id)
            await settled(lambda: hub.is_connected(node.peer_id))
        # Another one moves in.
        async with hub_at(port) as successor:
            await advance(mock_clock, 10)
            assert node.is_connected(successor.peer_id)
            assert node.swarm.registry.tags.is_protected(successor.peer_id)
            assert not node.swarm.registry.tags.is_protected(hub.peer_id)


async def test_one_peer_listed_twice_is_dialed_once_at_a_time(mock_clock, monkeypatch):
    async with hub_at() as hub, proxied(bare(hub)) as proxy:
        node = node_with(bare(hub), proxy.addr)
        async with node:
            await settled(lambda: len(node.swarm.registry.by_peer.get(hub.peer_id, ())) == 2)
            await advance(mock_clock, 61, 1)
            dials = Dials(node, monkeypatch)
            await hub.disconnect(node.peer_id)
            await settled(lambda: hub.is_connected(node.peer_id))
            assert len(dials.addrs) == dials.most == 1


# --- whom it must not dial ---


async def test_itself_and_a_peer_it_may_not_reach(caplog, mock_clock, monkeypatch):
    """The same file is given to all nodes."""
    caplog.set_level(logging.INFO, "lattica")
    identity, denied = Identity.generate(), Identity.generate().peer_id
    with counted_listener() as (other, listener):
        listen = f"/ip4/127.0.0.1/tcp/{unused_port()}"
        config = NodeConfig(
            swarm=swarm_config(listen=(listen,), access=AccessRules(deny_peers=(str(denied),))),
            bootstrap=(f"{listen}/p2p/{identity.peer_id}", listen, f"{other}/p2p/{denied}"),
        )
        node = Node(config, identity=identity)
        dials = Dials(node, monkeypatch)
        async with node:
            await advance(mock_clock, 100, 1)
            assert node.peers() == ()
            assert len(dials.addrs) == 1
        (line,) = said(caplog)
        assert "is not dialed" in line
        assert "deny_peers" in line
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_networks_that_are_denied(caplog, mock_clock):
    caplog.set_level(logging.INFO, "lattica")
    rules = AccessRules(deny_networks=("127.0.0.0/8",))
    with counted_listener() as (addr, listener):
        named = f"{addr}/p2p/{Identity.generate().peer_id}"
        async with node_with(addr, named, access=rules):
            await advance(mock_clock, 30)
        assert len(said(caplog)) == 2
        assert caplog.text.count("deny_networks") == 2
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_bad_bootstrap_addresses():
    with pytest.raises(AddressError, match="multiaddr"):
        node_with("somewhere:1")


# --- its end ---


async def test_it_ends_in_the_middle_of_attempts(mock_clock):
    """The clock stands still, so whatever would wait for a timeout would wait forever."""
    before = tasks()
    stranger = Identity.generate().peer_id
    refused = f"/ip4/127.0.0.1/tcp/{unused_port()}"
    async with hub_at() as hub:
        with mute_listener() as mute, black_hole() as hole:
            async with node_with(f"{mute}/p2p/{stranger}", mute, hole, refused, hub.addrs[0]) as a:
                await a.wait_connected(hub.peer_id)
                await wait_all_tasks_blocked(0.01)
            with trio.CancelScope() as scope:
                async with node_with(f"{hole}/p2p/{stranger}", mute, hub.addrs[0]):
                    await wait_all_tasks_blocked(0.01)
                    scope.cancel()
                    await trio.sleep_forever()
    assert tasks() == before


async def test_connections_that_end_with_the_node_are_not_replaced(monkeypatch):
    async with hub_at() as hub:
        node = node_with(hub.addrs[0])
        async with node:
            await node.wait_connected(hub.peer_id)
            dials = Dials(node, monkeypatch)
        assert dials.addrs == []


async def test_the_swarm_may_end_first(caplog):
    async with hub_at() as hub, node_with(hub.addrs[0]) as node:
        await node.wait_connected(hub.peer_id)
        await node.swarm.close()
    assert "Traceback" not in caplog.text
