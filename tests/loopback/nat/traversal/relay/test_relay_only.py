"""A node with `nat.relay_only` shows its addresses to its relays, and to nobody else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from lattica.config import load_config
from lattica.content import Publisher
from lattica.errors import ConfigError, DialError
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.base.net import dnsaddr
from lattica.nat.base.net.addresses import Kind, kind_of, parse_multiaddr
from lattica.node import Node
from tests.support.nets.nets import echo

QUIET = {"nat.port_mapping.enabled": False, "nat.punch.allow_loopback": True}
TCP, QUIC = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise"


def node(**settings: object) -> Node:
    return Node(load_config(environment={}, overrides=QUIET | settings))


@dataclass
class Three:
    relay: Node
    hidden: Node
    other: Node


@asynccontextmanager
async def three() -> AsyncIterator[Three]:
    """A relay, a node that shows itself to it alone, and one that punches holes where it can."""
    relaying = {
        "nat.relay_server.enabled": True,
        "nat.relay_server.limits.open_to_strangers": True,
    }
    with trio.fail_after(60):
        async with node(listen=[TCP, QUIC], **relaying) as relay:
            addrs = [str(addr) for addr in relay.addrs]
            hiding = {"nat.relay_only": True, "relays": addrs}
            async with (
                node(**hiding) as hidden,
                node(listen=[TCP, QUIC], relays=addrs) as other,
            ):
                await hidden.wait_reachable()
                await other.wait_reachable()
                yield Three(relay, hidden, other)


def is_relayed(addr: object) -> bool:
    return "/p2p-circuit" in str(addr)


async def test_nobody_but_the_relay_is_told_or_met_at_an_address_of_it(tmp_path: Path) -> None:
    async with three() as nodes:
        hidden, other = nodes.hidden, nodes.other
        assert hidden.addrs
        assert all(map(is_relayed, hidden.addrs))
        assert not hidden.swarm.listen_addrs
        hidden.handle("/echo/1", echo)
        other.handle("/echo/1", echo)
        for addr in hidden.addrs:
            await other.connect(addr)
        for one, two in ((hidden, other), (other, hidden)):
            async with await one.open_stream(two.peer_id, "/echo/1") as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
        # Whoever punches holes begins at once; here nobody answers.
        await trio.sleep(2)
        connections = other.swarm.registry.by_peer[hidden.peer_id]
        assert connections
        for connection in connections:
            assert connection.is_relayed
            assert connection.told_addrs
            assert all(map(is_relayed, connection.told_addrs))
            assert all(map(is_relayed, other.swarm.address_book.addrs(hidden.peer_id)))
            spoken = connection.known_protocols
            assert not [name for name in spoken if "dcutr" in name or "autonat" in name]
            assert not [name for name in spoken if "/ice/" in name or "reverse" in name]
        record = open_record(hidden._identify.own_record())
        assert record.addrs
        assert all(map(is_relayed, record.addrs))
        (tmp_path / "f").write_bytes(b"words")
        async with Publisher(hidden) as publisher:
            ticket = await publisher.publish(tmp_path / "f")
            assert ticket.addrs
            assert all(map(is_relayed, ticket.addrs))
        for peer_id, made in hidden.swarm.registry.by_peer.items():
            for connection in made:
                assert connection.is_relayed or peer_id == nodes.relay.peer_id


async def test_it_dials_nobody_else_and_no_relay_at_an_address_that_others_say() -> None:
    trap = socket.create_server(("127.0.0.1", 0))
    trap.setblocking(False)
    at = f"/ip4/127.0.0.1/tcp/{trap.getsockname()[1]}"
    with trap:
        async with three() as nodes:
            hidden, other, relay = nodes.hidden, nodes.other, nodes.relay
            somebody = other.peer_id
            for addr in (
                at,
                f"{at}/p2p/{somebody}",
                f"{at}/p2p/{somebody}/p2p-circuit/p2p/{hidden.identity.generate().peer_id}",
                f"/dns4/localhost/tcp/{trap.getsockname()[1]}/p2p/{somebody}",
                *(str(each) for each in other.addrs if kind_of(each) is not Kind.CIRCUIT),
            ):
                with pytest.raises(DialError) as caught, trio.fail_after(60):
                    await hidden.connect(addr)
                assert caught.value.attempts
            # The relay may be connected already, by one of the addresses that were configured.
            for addr in (
                f"{at}/p2p/{relay.peer_id}",
                f"{at}/p2p/{relay.peer_id}/p2p-circuit/p2p/{somebody}",
            ):
                await hidden.disconnect(relay.peer_id)
                with suppress(DialError), trio.fail_after(60):
                    await hidden.connect(addr)
            with pytest.raises(BlockingIOError):
                trap.accept()


class Asked(trio.abc.HostnameResolver):
    """Answers nothing, and remembers for which names it was asked."""

    def __init__(self) -> None:
        self.names: list[object] = []

    async def getaddrinfo(self, host: object, *_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        self.names.append(host)
        return []

    async def getnameinfo(self, *_: object) -> Any:
        raise AssertionError


async def test_it_looks_up_no_name_that_others_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()

    def no_text_records() -> Any:
        asked.names.append("dnsaddr")
        raise OSError

    monkeypatch.setattr(dnsaddr, "_resolver", no_text_records)
    async with three() as nodes:
        hidden, other, relay = nodes.hidden, nodes.other, nodes.relay
        other.handle("/echo/1", echo)
        trio.socket.set_custom_hostname_resolver(asked)
        try:
            port = "tcp/1"
            named = [
                parse_multiaddr(f"/dns4/who.asks.example/{port}"),
                parse_multiaddr("/dnsaddr/who.asks.example"),
                parse_multiaddr(f"/dns6/asks.example/{port}/p2p/{relay.peer_id}/p2p-circuit"),
            ]
            # What a peer has said of itself is dialed when it is gone.
            book = hidden.swarm.address_book
            await hidden.connect(next(addr for addr in other.addrs if is_relayed(addr)))
            await hidden.disconnect(other.peer_id)
            book.add(other.peer_id, named, 60.0)
            known = await hidden.swarm.known.of(other.peer_id)
            # The relay is connected: where a name says that it is does not matter.
            assert named[2] in known
            assert not {*named[:2]}.intersection(known)
            await hidden.connect(f"{named[2]}/p2p/{other.peer_id}")
            assert await hidden.swarm.told_names.resolved(named) == ()
            assert hidden.dht._peers._names is hidden.swarm.told_names
            with pytest.raises(DialError):
                await hidden.connect(f"{named[0]}/p2p/{other.identity.generate().peer_id}")
            assert asked.names == []
        finally:
            trio.socket.set_custom_hostname_resolver(None)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "relay_only"),
        ({"nat.relay_server.enabled": True}, "relay_server.enabled"),
        ({"nat.autonat.server.enabled": True}, "autonat.server.enabled"),
        ({"discovery.mdns": True}, "discovery.mdns"),
    ],
)
def test_what_would_show_its_address_is_refused_beside_it(
    settings: dict[str, object], name: str
) -> None:
    relays = {"relays": [f"{TCP[:-1]}1/p2p/12D3KooWLyqNeWmUwCfXfDVETuGwYrCAo58fpR6cE1FLAmr1LMcd"]}
    given = QUIET | {"nat.relay_only": True} | (relays if settings else {}) | settings
    with pytest.raises(ConfigError, match=name):
        load_config(environment={}, overrides=given)
