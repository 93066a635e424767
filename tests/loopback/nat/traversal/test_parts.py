"""Nodes with everything that gets them through NATs, on loopback with a relay of their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from lattica.config import NodeConfig
from lattica.errors import ConnectionClosedError, LocalProtocolError
from lattica.nat.base.concurrency.tasks import keep
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.targets import TargetBudget
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.events import NetworkChanged, PathChanged
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig
from lattica.node import Node
from tests.support.nets.nets import ECHO, LISTEN_ON, ask_echo, echo, settled, swarm_config

BOTH = (*LISTEN_ON["tcp"], *LISTEN_ON["quic"])


def node_config(**nat: Any) -> NodeConfig:
    defaults: dict[str, Any] = {"port_mapping": PortMappingConfig(enabled=False)}
    return NodeConfig(swarm=swarm_config(listen=BOTH), nat=TraversalConfig(**defaults | nat))


@asynccontextmanager
async def relay_node() -> AsyncIterator[Node]:
    server = RelayServerConfig(enabled=True, limits=RelayLimits(open_to_strangers=True))
    async with Node(node_config(relay_server=server)) as node:
        yield node


@asynccontextmanager
async def behind(relay: Node, **nat: Any) -> AsyncIterator[Node]:
    """A node that is announced through the relay."""
    config = RelayClientConfig(relays=tuple(map(str, relay.addrs)))
    async with Node(node_config(relay=config, **nat)) as node:
        node.handle(ECHO, echo)
        await node.wait_reachable(60)
        yield node


def relayed_addrs(node: Node) -> list[Multiaddr]:
    return [addr for addr in node.addrs if kind_of(addr) is Kind.CIRCUIT]


@dataclass
class Calls:
    """A part that fails so many times before it goes on."""

    failures: int
    count: int = 0

    async def run(self) -> None:
        self.count += 1
        if self.count <= self.failures:
            raise ZeroDivisionError
        await trio.sleep_forever()


async def test_everything_works_over_a_relay_and_then_directly():
    punch = {"punch": PunchConfig(allow_loopback=True), "ice": IceConfig(allow_loopback=True)}
    async with relay_node() as relay, behind(relay, **punch) as a, behind(relay, **punch) as b:
        [*addrs] = relayed_addrs(a)
        assert addrs
        assert all(str(relay.peer_id) in str(addr) for addr in addrs)
        with b.events() as events:
            await b.connect(addrs)
            assert b.path(a.peer_id) is not None
            assert await ask_echo(b, a.peer_id) == b"hello"
            async for event in events:
                if isinstance(event, PathChanged):
                    break
        await settled(lambda: path(a, b.peer_id).startswith("direct"))
        await settled(lambda: path(b, a.peer_id).startswith("direct"))
        assert await ask_echo(b, a.peer_id, bytes(200_000)) == bytes(200_000)
        assert await ask_echo(a, b.peer_id, protocols=[ECHO]) == b"hello"
        [status] = [peer for peer in b.peers() if peer.peer_id == a.peer_id]
        assert status.connections[0].path.startswith("direct")


def path(node: Node, peer_id: PeerId) -> str:
    status = node.path(peer_id)
    return "" if status is None else status.path


async def test_loopback_is_not_punched_unless_asked_for(caplog):
    caplog.set_level("INFO")
    async with relay_node() as relay, behind(relay) as a, behind(relay) as b:
        await b.connect(relayed_addrs(a))
        await settled(lambda: "stays relayed" in caplog.text)
        status = a.path(b.peer_id)
        assert status is not None
        assert (status.path, status.relay) == ("relayed", relay.peer_id)
        assert {report.name for report in status.ways} == {
            "direct",
            "tcp-punch",
            "udp-punch",
            "birthday",
        }
        assert all(report.reason and not report.ok for report in status.ways)
        assert await ask_echo(b, a.peer_id) == b"hello"


async def test_a_relay_needs_no_relay_and_serves_more_than_circuits():
    async with relay_node() as relay:
        assert relay.traversal.relay_service is not None
        names = relay.swarm.protocols.names
        assert any("autonat/2" in name for name in names)
        assert any("circuit/relay" in name and name.endswith("hop") for name in names)
        with pytest.raises(LocalProtocolError, match="no relay is configured"):
            await relay.wait_reachable()
        async with Node(node_config()) as plain:
            assert not any(name.endswith("/hop") for name in plain.swarm.protocols.names)
            with pytest.raises(LocalProtocolError, match="no relay is configured"):
                await plain.wait_reachable(1)
            await plain.wait_announced()  # there is nothing to wait for


async def test_waiting_for_a_bootstrap_peer_that_is_no_relay():
    async with Node(node_config()) as other:
        config = replace(node_config(), bootstrap=tuple(map(str, other.addrs)))
        async with Node(config) as node:
            with trio.fail_after(60):
                await node.wait_announced(1000)
            assert relayed_addrs(node) == []


async def test_a_change_of_the_network_makes_what_was_seen_before_untrue():
    async with relay_node() as relay, behind(relay) as node:
        connection = node.swarm.registry.best(relay.peer_id)
        assert connection is not None
        stale = Multiaddr("/ip4/8.8.8.8/tcp/1")
        node.swarm.record_observation(connection, stale)
        node.swarm.own_addresses.set("verified", [stale])
        node.swarm.own_addresses.set_checked(unreachable=[stale])
        node.swarm.events.publish(NetworkChanged("test"))
        await settled(lambda: stale not in node.swarm.observed.addrs(Kind.TCP))
        assert stale not in node.swarm.addrs
        # The relay, which is still connected, is asked again.
        await settled(lambda: node.swarm.observed.addrs(Kind.TCP))


async def test_peers_hear_of_new_addresses():
    async with relay_node() as relay, behind(relay) as node:
        new = Multiaddr("/ip4/8.8.8.8/tcp/4001")
        node.swarm.own_addresses.set("mapped", [new])
        await settled(lambda: new in relay.swarm.address_book.addrs(node.peer_id))


async def test_a_defect_of_one_part_is_logged_and_the_part_starts_again(caplog, autojump_clock):
    part = Calls(failures=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, part.run, random.Random())
        await trio.sleep(30)
        assert part.count == 4
        assert caplog.text.count("internal error, starting again") == 3
        nursery.cancel_scope.cancel()


async def test_a_peer_that_breaks_its_connection_has_nobody_dial_what_it_names(monkeypatch):
    async with Node(node_config()) as node, Node(node_config()) as liar:
        node.handle(ECHO, echo)
        dialed: list[Multiaddr] = []

        async def dial(
            peer_id: PeerId | None, addr: Multiaddr, *args: Any, **more: Any
        ) -> Connection:
            dialed.append(addr)
            await trio.lowlevel.checkpoint()
            raise ConnectionClosedError("nobody is there")

        names = [Multiaddr(f"/ip4/10.1.0.{n}/tcp/22") for n in range(40)]
        names += [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 44)]
        liar.swarm.own_addresses.set("mapped", names)
        await liar.connect(node.addrs[0])
        stream = await liar.open_stream(node.peer_id, ECHO)
        await stream.send_all(b"x")
        await stream.receive_exactly(1)
        await settled(lambda: len(node.swarm.address_book.addrs(liar.peer_id)) > 16)
        monkeypatch.setattr(node.swarm._dialer, "_dial_address", dial)
        liar.traversal.paths._reconnecting.add(node.peer_id)  # it waits to be dialed
        connection = node.swarm.registry.best(liar.peer_id)
        assert connection is not None
        connection.established_at -= 60  # as if it had lasted
        stream.connection.abort("broken on purpose")
        await settled(lambda: dialed)
        await trio.sleep(3)
    assert len(dialed) <= TargetBudget.BURST + 1
    assert not any(str(addr).startswith("/ip4/10.") for addr in dialed)
