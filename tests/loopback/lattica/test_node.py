"""The node as an application uses it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica import AsyncLattica, Lattica
from lattica.config import NodeConfig
from lattica.content import Publisher, fetch
from lattica.content.protocol import PROTOCOL as CONTENT
from lattica.errors import (
    AccessDeniedError,
    AddressError,
    ConnectionClosedError,
    DialError,
    IdentityError,
    ListenError,
    LocalProtocolError,
    NotConnectedError,
    StreamResetError,
    TicketError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import split_peer, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.events import PeerConnected, PeerDisconnected
from lattica.nat.traversal.punch.dcutr.messages import DCUTR
from lattica.node import Node
from tests.support.nets.nets import (
    ECHO,
    ask_echo,
    echo,
    mute_listener,
    node_config,
    open_files,
    proxied,
    settled,
    swarm_config,
    tasks,
    unused_port,
)


def new_node(**changes) -> Node:
    node = Node(node_config(**changes))
    node.handle(ECHO, echo)
    return node


def hushed(**changes) -> NodeConfig:
    return NodeConfig(swarm=swarm_config(listen=(), **changes))


# --- what it is ---


async def test_the_default_node_listens_everywhere_and_contacts_nobody(tmp_path):
    async with Node(NodeConfig(data_dir=tmp_path)) as node:
        assert node.peers() == ()
        assert all(split_peer(addr)[1] == node.peer_id for addr in node.addrs)
        first = [str(addr).split("/")[2] for addr in node.addrs]
        assert "127.0.0.1" in first
        assert "0.0.0.0" not in first
        async with new_node(listen=()) as other:
            assert await other.connect(node.addrs) == node.peer_id
    assert list(tmp_path.iterdir()) == []


async def test_whose_identity_it_has(tmp_path):
    path = tmp_path / "deep" / "key"
    config = NodeConfig(identity_path=path, swarm=swarm_config())
    made = Node(config).peer_id
    assert Identity.load(path).peer_id == Node(config).peer_id == made
    given = Identity.generate()
    assert Node(config, identity=given).peer_id == given.peer_id
    assert Node(node_config()).peer_id != Node(node_config()).peer_id
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        Node(config)


async def test_it_leaves_nothing_behind():
    before = tasks(), open_files()
    for _ in range(2):
        async with new_node() as a, new_node() as b:
            await a.connect(b.addrs[0])
            assert await ask_echo(a, b.peer_id) == b"hello"
    await settled(lambda: (tasks(), open_files()) == before)


# --- connecting ---


@pytest.mark.parametrize("form", ["text", "multiaddr", "list", "bare", "padded"])
async def test_the_forms_of_an_address(form):
    async with new_node() as a, new_node() as b:
        addr = b.addrs[0]
        bare = split_peer(addr)[0]
        targets: Any = {
            "text": str(addr),
            "multiaddr": addr,
            "list": [f"/ip4/127.0.0.1/tcp/{unused_port()}", addr],
            "bare": str(bare),
            "padded": f" {addr}\n",
        }
        assert await a.connect(targets[form]) == b.peer_id
        assert await a.connect(b.peer_id) == b.peer_id
        assert await a.connect(str(b.peer_id)) == b.peer_id


async def test_a_peer_is_found_again_by_its_id():
    async with new_node() as a, new_node() as b:
        await a.connect(b.addrs[0])
        await a.disconnect(b.peer_id)
        assert not a.is_connected(b.peer_id)
        await a.connect(b.peer_id)
        await a.disconnect(str(b.peer_id))
        # A stream connects by itself.
        assert await ask_echo(a, b.peer_id) == b"hello"


async def test_an_address_that_works_is_kept_whatever_the_peer_says_of_itself():
    """A peer behind a forwarded port knows only its own side of it."""
    async with new_node() as a, new_node() as b, proxied(split_peer(b.addrs[0])[0]) as proxy:
        await a.connect(with_peer(proxy.addr, b.peer_id))
        await settled(lambda: a.peers()[0].agent)
        await a.disconnect(b.peer_id)
        known = a.swarm.address_book.addrs(b.peer_id)
        assert proxy.addr in known
        assert split_peer(b.addrs[0])[0] in known


async def test_add_address():
    async with new_node() as a, new_node() as b:
        a.add_address(str(b.peer_id), str(b.addrs[0]))
        assert await a.connect(b.peer_id) == b.peer_id
        with pytest.raises(AddressError):
            a.add_address(b.peer_id, "nonsense")
        with pytest.raises(AddressError):
            a.add_address("nobody", b.addrs[0])


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ("nonsense", AddressError, "not a peer ID"),
        ("127.0.0.1:4001", AddressError, "write it as /ip4/127.0.0.1/tcp/4001"),
        ("/ip4/300.0.0.1/tcp/1", AddressError, "not a multiaddr"),
        ("/ip4/127.0.0.1/tcp/1/p2p/nonsense", AddressError, "not a multiaddr"),
        ("", AddressError, "not a peer ID"),
        ("/ip4/127.0.0.1/udp/1", DialError, "no transport"),
        ([], LocalProtocolError, "addresses of one peer"),
        (Identity.generate().peer_id, NotConnectedError, "connect to a full multiaddr first"),
        (str(Identity.generate().peer_id), NotConnectedError, "no address"),
    ],
)
async def test_targets_that_make_no_sense(target, error, text):
    async with new_node() as node:
        with pytest.raises(error, match=text):
            await node.connect(target)
        assert node.peers() == ()


@pytest.mark.parametrize("wrong", [None, b"12D3Koo", 5, b""])
async def test_what_is_no_peer_and_no_address_is_refused_at_once(wrong):
    async with new_node() as node:
        peer, addr = node.peer_id, node.addrs[0]
        for call in (
            lambda: node.is_connected(wrong),
            lambda: node.path(wrong),
            lambda: node.add_address(wrong, addr),
        ):
            with pytest.raises(AddressError, match=r"not a peer ID: .*; pass .* str\(peer\)"):
                call()
        for wait in (
            lambda: node.disconnect(wrong),
            lambda: node.wait_connected(wrong),
            lambda: node.open_stream(wrong, ECHO),
        ):
            with pytest.raises(AddressError, match="not a peer ID"):
                await wait()
        for target in (wrong, [wrong], (addr, wrong)):
            with pytest.raises(AddressError, match=r"not an address: .*; pass .* str\(addr\)"):
                await node.connect(target)
        with pytest.raises(AddressError, match="not an address"):
            node.add_address(peer, wrong)


async def test_errors_of_connect():
    access = AccessRules(deny_peers=(str((denied := Identity.generate()).peer_id),))
    async with new_node(access=access) as a, new_node() as b:
        with pytest.raises(LocalProtocolError, match="itself"):
            await a.connect(a.addrs[0])
        with pytest.raises(LocalProtocolError, match="itself"):
            await a.connect(a.peer_id)
        stranger = Identity.generate().peer_id
        with pytest.raises(LocalProtocolError, match="one peer"):
            await a.connect([b.addrs[0], with_peer(b.addrs[0], stranger)])
        with pytest.raises(DialError, match="stale or somebody else") as caught:
            await a.connect(with_peer(b.addrs[0], stranger))
        assert len(caught.value.attempts) == 1
        with pytest.raises(AccessDeniedError, match="deny_peers"):
            await a.connect(with_peer(b.addrs[0], denied.peer_id))
        refused = f"/ip4/127.0.0.1/tcp/{unused_port()}"
        with pytest.raises(DialError, match=f"{refused}: ECONNREFUSED"):
            await a.connect(refused)
        with pytest.raises(OSError, match="ECONNREFUSED"):
            await a.connect(f"{refused}/p2p/{stranger}")
        # A failed address is not remembered.
        with pytest.raises(NotConnectedError):
            await a.connect(stranger)


async def test_timeouts_of_the_caller():
    async with new_node() as node, new_node() as peer:
        with mute_listener() as mute:
            with pytest.raises(TimeoutError, match=f"no connection to {mute} within 0.05 s"):
                await node.connect(mute, timeout=0.05)
            stranger = Identity.generate().peer_id
            node.add_address(stranger, mute)
            with pytest.raises(TimeoutError, match=f"no stream to {stranger} within 0.05 s"):
                await node.open_stream(stranger, ECHO, timeout=0.05)
            with pytest.raises(TimeoutError, match=f"{stranger} did not connect within 0.05 s"):
                await node.wait_connected(stranger, timeout=0.05)
        await node.connect(peer.addrs[0], timeout=60)
        await node.wait_connected(peer.peer_id, timeout=60)
        await peer.wait_connected(str(node.peer_id), timeout=60)


async def test_it_must_run():
    node, other = new_node(), Identity.generate().peer_id
    for use in (
        lambda: node.connect("/ip4/127.0.0.1/tcp/1"),
        lambda: node.wait_connected(other),
        lambda: node.connect(with_peer(Multiaddr("/ip4/127.0.0.1/tcp/1"), other)),
    ):
        with pytest.raises(LocalProtocolError, match="not running"):
            with trio.fail_after(60):
                await use()
    async with node:
        pass
    for use in (
        lambda: node.connect("/ip4/127.0.0.1/tcp/1"),
        lambda: node.wait_connected(other),
    ):
        with pytest.raises(LocalProtocolError, match="not running"):
            await use()
    await node.disconnect(other)
    with pytest.raises(LocalProtocolError, match="runs once"):
        async with node:
            pass


# --- peers, events, streams ---


@pytest.mark.parametrize(
    ("setting_a", "setting_b", "cipher"),
    [
        ("aes-256-gcm", "aes-256-gcm", "aes-256-gcm"),
        ("aes-256-gcm", "chacha20-poly1305", "chacha20-poly1305"),
        ("chacha20-poly1305", "aes-256-gcm", "chacha20-poly1305"),
        ("chacha20-poly1305", "chacha20-poly1305", "chacha20-poly1305"),
    ],
)
async def test_both_have_to_offer_a_cipher(setting_a, setting_b, cipher):
    async with new_node(cipher=setting_a) as a, new_node(cipher=setting_b) as b:
        await a.connect(b.addrs[0])
        await b.wait_connected(a.peer_id)
        for node in (a, b):
            assert node.peers()[0].connections[0].cipher == cipher
        async with await a.open_stream(b.peer_id, ECHO) as stream:
            await stream.send_all(bytes(300_000))
            assert await stream.receive_exactly(300_000) == bytes(300_000)


async def test_what_it_says_of_its_peers():
    async with new_node() as a, new_node() as b:
        assert a.peers() == ()
        await a.connect(b.addrs[0])
        await b.wait_connected(a.peer_id)
        await settled(lambda: a.peers()[0].agent and b.peers()[0].agent)
        async with await a.open_stream(b.peer_id, ECHO):
            await settled(lambda: a.peers()[0].connections[0].rtt is not None)
            (peer,) = a.peers()
            (connection,) = peer.connections
            assert peer.peer_id == b.peer_id
            assert peer.agent.startswith("lattica-stack/")
            assert connection.addr == split_peer(b.addrs[0])[0]
            assert connection.direction is Direction.OUTBOUND
            assert connection.streams >= 1
            assert connection.age >= 0
            assert connection.rtt is not None
            assert connection.rtt >= 0
        assert b.peers()[0].connections[0].direction is Direction.INBOUND
        assert a.is_connected(b.peer_id)
        assert a.is_connected(str(b.peer_id))
        await a.disconnect(b.peer_id)
        await a.disconnect(b.peer_id)
        assert a.peers() == ()


async def test_events_of_a_node():
    async with new_node() as a, new_node() as b:
        with a.events() as events:
            await b.connect(a.addrs[0])
            connected = await anext(events)
            await b.disconnect(a.peer_id)
            assert await anext(events) == PeerDisconnected(b.peer_id, "closed by the peer")
        assert isinstance(connected, PeerConnected)
        assert (connected.peer_id, connected.direction) == (b.peer_id, Direction.INBOUND)
    with a.events() as events:
        assert [event async for event in events] == []


async def test_handling_and_no_longer_handling():
    async with new_node() as a, Node(node_config()) as b:
        await a.connect(b.addrs[0])
        with pytest.raises(UnsupportedProtocolError, match=ECHO):
            await a.open_stream(b.peer_id, ECHO)
        b.handle(ECHO, echo)
        assert await ask_echo(a, b.peer_id) == b"hello"
        assert (await a.open_stream(b.peer_id, ["/test/no/1", ECHO])).protocol == ECHO
        b.unhandle(ECHO)
        b.unhandle(ECHO)
        with pytest.raises(UnsupportedProtocolError):
            await ask_echo(a, b.peer_id)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]
)
async def test_a_handler_that_leaves_ends_its_stream_and_not_the_node(kind):
    async def leave(stream):
        raise kind

    async def leave_in_a_nursery(stream):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(leave, stream)

    async with new_node() as node, new_node(listen=()) as other:
        node.handle("/leave/1", leave)
        node.handle("/leave/2", leave_in_a_nursery)
        node.handle("/leave/3", leave_in_a_nursery, cancel_when_gone=True)
        peer = await other.connect(node.addrs[0])
        for number in (1, 2, 3):
            with pytest.raises(StreamResetError):
                await ask_echo(other, peer, protocols=f"/leave/{number}")
        assert await ask_echo(other, peer)


async def test_nobody_takes_a_protocol_from_another_by_chance():
    """Neither from a part of the node, nor from a service on it."""
    node = Node(node_config())
    with pytest.raises(LocalProtocolError, match="is served by hole punching"):
        node.handle(DCUTR, echo)
    with pytest.raises(LocalProtocolError, match="is served by hole punching"):
        node.unhandle(DCUTR)
    async with node, Publisher(node) as publisher:
        with pytest.raises(LocalProtocolError, match="is served by content"):
            node.handle(CONTENT, echo)
        with pytest.raises(LocalProtocolError, match="has a Publisher"):
            async with Publisher(node):
                pass  # the first one goes on
        with pytest.raises(LocalProtocolError, match="is served by content"):
            node.handle(CONTENT, echo)
        assert repr(publisher) == "<Publisher of 0>"
        node.handle(DCUTR, echo, replace=True)
    node.handle(CONTENT, echo)


async def test_a_stream_on_a_connection_that_is_just_ending_gets_another(monkeypatch):
    async with new_node() as a, new_node() as b:
        await a.connect(b.addrs[0])
        old = a.swarm.registry.best(b.peer_id)
        open_stream = a.swarm.open_stream
        tries: list[Any] = []

        async def end_first(peer_id, protocols, **more):
            tries.append(a.swarm.registry.best(peer_id))
            if len(tries) == 1:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(tries[0].aclose)
                    await wait_all_tasks_blocked()
                raise ConnectionClosedError("it ended")
            return await open_stream(peer_id, protocols, **more)

        monkeypatch.setattr(a.swarm, "open_stream", end_first)
        assert await ask_echo(a, b.peer_id) == b"hello"
        assert tries[0] is old
        assert len(set(tries)) == 2
        tries.clear()


async def test_lost_peers_of_a_node_that_has_no_address_of_them():
    async with new_node() as server, Node(hushed()) as client:
        client.handle(ECHO, echo)
        await client.connect(server.addrs[0])
        await server.wait_connected(client.peer_id)
        assert await ask_echo(server, client.peer_id) == b"hello"
        await client.disconnect(server.peer_id)
        await settled(lambda: not server.is_connected(client.peer_id))
        with pytest.raises(NotConnectedError):
            await server.open_stream(client.peer_id, ECHO)


# --- errors, and who sees them ---


async def test_errors_of_the_start_come_as_they_are():
    async with new_node() as first:
        port = str(split_peer(first.addrs[0])[0])
        with pytest.raises(ListenError, match="in use"):
            async with Node(node_config(listen=(port,))):
                pass
        with pytest.raises(AddressError):
            async with Node(node_config(listen=("nonsense",))):
                pass


class Special(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyError("mine"), Special(), KeyboardInterrupt()])
async def test_an_exception_in_the_body_comes_out_as_it_is(error):
    before = tasks()
    with pytest.raises(type(error)) as caught:  # noqa: PT012
        async with new_node() as a, new_node() as b:
            await a.connect(b.addrs[0])
            raise error
    assert caught.value is error
    assert tasks() == before


async def test_a_group_raised_in_the_body_comes_out_as_it_is():
    group = ExceptionGroup("mine", [KeyError("one")])
    nested = ExceptionGroup("outer", [group])
    for error in (group, nested):
        with pytest.raises(ExceptionGroup) as caught:
            async with new_node():
                raise error
        assert caught.value is error


async def test_cancelling_the_body_ends_the_node():
    before, ended = tasks(), []

    async def hang(stream):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(stream)

    async with new_node() as peer:
        with trio.CancelScope() as scope:
            async with new_node() as node:
                node.handle("/test/hang/1", hang)
                await peer.connect(node.addrs[0])
                stream = await peer.open_stream(node.peer_id, "/test/hang/1")
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert len(ended) == 1
        with pytest.raises(ConnectionClosedError):
            await stream.receive_some()
    assert tasks() == before


async def test_a_deadline_over_everything():
    with trio.move_on_after(0.2) as scope:
        async with new_node() as a, new_node() as b:
            while True:
                assert await ask_echo(a, (await a.connect(b.addrs[0]))) == b"hello"
    assert scope.cancelled_caught


async def test_a_defect_in_the_swarm_is_raised_by_itself(monkeypatch):
    """It ends the body, and is not hidden in groups."""
    node = new_node()

    def fail(connection):
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with node:
            monkeypatch.setattr(node.swarm.listeners, "_register", fail)
            async with Node(hushed()) as other:
                await other.connect(node.addrs[0])
                await trio.sleep_forever()


async def test_returning_from_the_body():
    async def use():
        async with new_node() as node:
            return node.peer_id

    assert await use() is not None


async def test_logs_of_an_ordinary_life_are_few(caplog):
    caplog.set_level(logging.INFO)
    async with new_node() as a, new_node() as b:
        await a.connect(b.addrs[0])
        for _ in range(10):
            assert await ask_echo(a, b.peer_id) == b"hello"
        await settled(lambda: a.peers()[0].agent and b.peers()[0].agent)
        await a.disconnect(b.peer_id)
    assert [r.getMessage().split("=")[0] for r in caplog.records] == ["listening addr"] * 2


async def test_what_is_no_timeout_or_ticket_is_said(tmp_path: Path) -> None:
    async with Node(hushed()) as node:
        for call in (
            partial(node.connect, "/ip4/127.0.0.1/tcp/9"),
            partial(node.wait_connected, node.peer_id),
            node.wait_announced,
            node.wait_reachable,
            partial(node.open_stream, node.peer_id, "/x/1"),
        ):
            wrong: Any = "3"
            with pytest.raises((TypeError, LocalProtocolError), match=r"timeout|no relay"):
                await call(timeout=wrong)
        nothing: Any = None
        with pytest.raises(TicketError, match="pass a Ticket or its text, not None"):
            await fetch(node, nothing, tmp_path)


def test_the_wrong_kind_of_with_names_the_right_one() -> None:
    with pytest.raises(TypeError, match="async with"), Node(hushed()):
        pass
    with pytest.raises(TypeError, match="async with"), AsyncLattica(hushed()):
        pass

    async def main() -> None:
        async with Lattica(hushed()):
            pass

    with pytest.raises(TypeError, match="use `with` for Lattica"):
        asyncio.run(main())
