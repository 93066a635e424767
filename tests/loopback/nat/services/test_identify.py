"""Identify and identify-push between nodes, and with a peer that says what it likes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.base.errors import RemoteProtocolError, StreamResetError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import open_record, seal_record
from lattica.nat.base.keys.public_keys import decode_public_key
from lattica.nat.base.net.addresses import Kind
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import decode_uvarint, encode_length_prefixed
from lattica.nat.config import Limits
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.yamux.frames import Flag
from lattica.nat.pb import identify_pb2 as pb
from lattica.nat.services.identify import service as identify_service
from lattica.nat.services.identify.messages import (
    IDENTIFY,
    IDENTIFY_PUSH,
    MAX_MESSAGES,
    Identify,
    decode,
    encode,
)
from lattica.nat.services.identify.service import IdentifyService
from lattica.nat.services.ping import MAX_STREAMS, PING
from lattica.nat.traversal import parts
from lattica.node import Node
from tests.support.attacker import Attacker, attacking, data, propose
from tests.support.nets.nets import ECHO, advance, echo, node_config, settled

ADDR = Multiaddr("/ip4/192.0.2.7/tcp/7")


@asynccontextmanager
async def node_with_echo(**changes: Any) -> AsyncIterator[Node]:
    async with Node(node_config(**changes)) as node:
        node.handle(ECHO, echo)
        yield node


async def say(peer: Attacker, message: bytes) -> None:
    """Answer the victim's question who we are."""
    await peer.set_up()
    question = propose(IDENTIFY)
    assert (await peer.answer(2, len(question))) == question
    body = encode_length_prefixed(message)
    await peer.send_frames(data(2, question + body, Flag.FIN))


async def identified(node: Node) -> None:
    await settled(lambda: node.peers() and node.peers()[0].agent)


async def test_who_a_peer_is_is_known_of_each_of_its_connections():
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        first = a.swarm.registry.best(b.peer_id)
        assert first is not None
        again = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        await settled(lambda: again.agent)
        assert again.agent == first.agent
        assert again.protocol_version == first.protocol_version
        assert again.told_addrs == first.told_addrs != frozenset()
        assert ECHO in again.known_protocols


async def test_it_is_also_known_of_those_that_came_before_it_had_said_it():
    async with node_with_echo() as a, node_with_echo() as b:
        first = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        second = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        await settled(lambda: first.agent and second.agent)
        await settled(lambda: all(each.agent for each in b.swarm.registry))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_peer_says_where_it_sees_each_kind_of_port(order):
    """It was asked over one connection: whose TCP was raced by QUIC never knew what a NAT had given
    to its TCP port, and could not be reached by a hole there.
    """
    listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise")
    async with Node(node_config(listen=listen)) as a, Node(node_config(listen=listen)) as b:
        for index in order:
            await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[index])
            await settled(lambda: all(each.agent for each in a.swarm.registry))
        kinds, seen = (Kind.TCP, Kind.QUIC), a.swarm.observed.addrs
        await settled(lambda: all(map(seen, kinds)))
        assert [seen(kind) for kind in kinds] == [[addr] for addr in a.swarm.addrs]


def unanswered(monkeypatch: pytest.MonkeyPatch, node: Node, *times: trio.Event) -> list[Connection]:
    """Have a node's first questions come to nothing, each when its time has come; all it asked."""
    asked: list[Connection] = []
    ask = IdentifyService.ask

    async def asking(service: IdentifyService, connection: Connection) -> bool:
        if service._swarm is not node.swarm:
            return await ask(service, connection)
        asked.append(connection)
        if len(asked) > len(times):
            return await ask(service, connection)
        await times[len(asked) - 1].wait()
        return False

    monkeypatch.setattr(IdentifyService, "ask", asking)
    return asked


async def test_whose_connection_ends_while_it_is_asked_is_asked_over_another_one(monkeypatch):
    """The hook of that one has found it asked, and nobody asked again."""
    async with Node(node_config()) as a, Node(node_config()) as b:
        time = trio.Event()
        asked = unanswered(monkeypatch, a, time)
        first = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        await settled(lambda: asked)
        second = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        first.abort("superseded")
        time.set()
        await settled(lambda: second.agent)
        assert asked == [first, second]


async def test_who_does_not_say_where_it_sees_a_port_is_asked_again(monkeypatch):
    monkeypatch.setattr(identify_service, "_SEEN_AGAIN", (0.01, 0.01))
    async with Node(node_config()) as a, Node(node_config()) as b:
        times = trio.Event(), trio.Event()
        for time in times:
            time.set()
        asked = unanswered(monkeypatch, a, *times)
        connection = await a.swarm.dial_fresh(b.peer_id, b.swarm.addrs[0])
        await settled(lambda: a.swarm.observed.addrs(Kind.TCP))
        assert asked == 3 * [connection]


async def test_a_new_listen_address_is_pushed_to_the_peers():
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        await identified(b)
        await a.swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        added = a.swarm.addrs[-1]
        assert len(a.swarm.addrs) == 2
        await settled(lambda: added in b.swarm.address_book.addrs(a.peer_id))


async def test_news_that_comes_while_peers_are_being_told_is_told_after_that(monkeypatch):
    monkeypatch.setattr(parts, "_PUSH_DELAY", 0.0)
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        await identified(b)
        say, may_end, rounds = a._identify._say, trio.Event(), []

        async def say_slowly(stream: Stream) -> None:
            rounds.append(stream)
            await say(stream)
            await may_end.wait()

        monkeypatch.setattr(a._identify, "_say", say_slowly)
        for _ in range(8):
            await a.swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
            await wait_all_tasks_blocked(0.02)
        assert len(rounds) == 1
        may_end.set()
        await settled(lambda: set(a.swarm.addrs) <= set(b.swarm.address_book.addrs(a.peer_id)))
        assert len(rounds) == 2


async def test_who_has_not_said_yet_that_it_takes_news_is_told_when_it_has(monkeypatch):
    """It has asked before the news, so nobody else would tell it."""
    monkeypatch.setattr(parts, "_PUSH_DELAY", 0.0)
    async with node_with_echo() as a, node_with_echo() as b:
        say, may_say = b._identify._say, trio.Event()

        async def say_late(stream: Stream) -> None:
            await may_say.wait()
            await say(stream)

        monkeypatch.setattr(b._identify, "_say", say_late)
        await a.connect(b.addrs[0])
        await identified(b)
        await a.swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        await wait_all_tasks_blocked(0.02)
        may_say.set()
        await settled(lambda: set(a.swarm.addrs) <= set(b.swarm.address_book.addrs(a.peer_id)))
        assert not a._identify._untold


async def refused() -> None:
    raise RemoteProtocolError("it is not taken")


@pytest.mark.parametrize("fault", [refused, trio.sleep_forever])
async def test_a_peer_that_did_not_take_news_is_told_again(fault, monkeypatch, mock_clock):
    monkeypatch.setattr(parts, "_PUSH_DELAY", 0.0)
    faults = [fault, fault]
    charge = Connection.charge

    async def charge_with_faults(connection: Connection, what: str, cost: int) -> None:
        if what == "identify-push" and faults:
            await faults.pop()()
        await charge(connection, what, cost)

    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        await identified(b)
        monkeypatch.setattr(Connection, "charge", charge_with_faults)
        await a.swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        await settled(lambda: len(faults) == 1)
        told = b.swarm.address_book.addrs
        assert a.swarm.addrs[-1] not in told(a.peer_id)
        # Two that fail take at most 10 s each, with pauses of at most 5 s and 10 s.
        await advance(mock_clock, 35)
        await settled(lambda: a.swarm.addrs[-1] in told(a.peer_id) and not a._identify._pushing)


async def test_peers_are_told_of_a_protocol_that_is_served_no_more():
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        await identified(b)
        connection = a.swarm.registry.best(b.peer_id)
        assert connection is not None
        assert ECHO in connection.known_protocols
        known = set(connection.known_protocols)
        b.unhandle(ECHO)
        await settled(lambda: ECHO not in connection.known_protocols)
        assert connection.known_protocols >= known - {ECHO}


async def test_a_push_without_protocols_changes_none():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await say(peer, encode(Identify(agent_version="x", protocols=("/a",))))
        await identified(node)
        body = encode_length_prefixed(encode(Identify(agent_version="y")))
        await peer.send_frames(data(1, propose(IDENTIFY_PUSH) + body, Flag.SYN | Flag.FIN))
        await settled(lambda: node.peers()[0].agent == "y")
        connection = node.swarm.registry.best(peer.identity.peer_id)
        assert connection is not None
        assert connection.known_protocols == {"/a"}


async def test_what_identify_says_of_us():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await peer.set_up()
        question = propose(IDENTIFY)
        await peer.send_frames(data(1, question, Flag.SYN))
        body = await peer.answer(1, len(question) + 2)
        size, start = decode_uvarint(body, len(question))
        body = await peer.answer(1, start + size)
        message = decode(body[start : start + size])
        assert message.agent_version.startswith("lattica-stack/")
        assert message.protocol_version == "/lattica/1.0.0"
        assert {ECHO, IDENTIFY, IDENTIFY_PUSH, PING} <= set(message.protocols)
        assert message.listen_addrs == node.swarm.addrs
        assert str(message.observed_addr) == peer.addr
        assert message.public_key == node.identity.public_key_bytes
        assert PeerId.from_public_key(decode_public_key(message.public_key)) == node.peer_id
        record = open_record(message.signed_record)
        assert (record.peer_id, record.addrs) == (node.peer_id, node.swarm.addrs)


async def test_what_a_peer_says_is_bounded_and_checked():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 201)]
        bad = [b"\xff\xff", b"\x04\x7f\x00\x00\x01\x06\x0f", b""]
        message = pb.Identify(
            agent_version=b"evil/1 " + b"x" * 1000,
            listen_addrs=[*bad, *(addr.to_bytes() for addr in addrs)],
            protocols=[b"/test/%d" % number for number in range(2000)],
            public_key=Identity.generate().public_key_bytes,
            signed_peer_record=bytes(10_000),
        )
        await say(peer, message.SerializeToString())
        await identified(node)
        peer_id = peer.identity.peer_id
        assert len(node.peers()[0].agent) == 256
        assert node.swarm.address_book.addrs(peer_id) == addrs[:64]
        connection = node.swarm.registry.best(peer_id)
        assert connection is not None
        assert len(connection.known_protocols - {IDENTIFY}) == 512
        assert connection.public_key == peer.identity.public_key


async def test_text_that_is_none():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await say(peer, b"\x32\x02\xff\xff" + b"\x1a\x02\xff\xff" + b"\x1a\x02/x")
        connection = node.swarm.registry.best(peer.identity.peer_id)
        assert connection is not None
        await settled(lambda: "/x" in connection.known_protocols)
        assert connection.known_protocols - {IDENTIFY} == {"/x"}
        assert node.peers()[0].agent == ""


async def test_several_messages_are_merged():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await peer.set_up()
        question = propose(IDENTIFY)
        assert (await peer.answer(2, len(question))) == question
        parts = [
            Identify(agent_version="x", protocols=("/a",)),
            Identify(protocols=("/b",)),
            Identify(signed_record=seal_record(peer.identity, 1, [ADDR])),
        ]
        body = b"".join(encode_length_prefixed(encode(part)) for part in parts)
        await peer.send_frames(data(2, question + body, Flag.FIN))
        await identified(node)
        connection = node.swarm.registry.best(peer.identity.peer_id)
        assert connection is not None
        assert connection.known_protocols == {"/a", "/b"}
        assert node.swarm.address_book.addrs(peer.identity.peer_id) == [ADDR]


async def test_more_messages_than_a_peer_may_need_are_not_read():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await peer.set_up()
        question = propose(IDENTIFY)
        assert (await peer.answer(2, len(question))) == question
        parts = [Identify(agent_version="x", protocols=(f"/{n}",)) for n in range(20)]
        body = b"".join(encode_length_prefixed(encode(part)) for part in parts)
        await peer.send_frames(data(2, question + body))  # and no end
        await identified(node)
        connection = node.swarm.registry.best(peer.identity.peer_id)
        assert connection is not None
        assert connection.known_protocols == {f"/{n}" for n in range(MAX_MESSAGES)}


async def test_an_observation_that_is_none_costs_no_more_than_itself():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        message = encode(Identify(agent_version="x", protocols=("/x",), listen_addrs=(ADDR,)))
        await say(peer, message + b"\x22\x02\xff\xff")
        await identified(node)
        assert node.swarm.address_book.addrs(peer.identity.peer_id) == [ADDR]


async def test_addresses_of_others_are_not_taken_for_the_peers():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        own, other = peer.identity.peer_id, Identity.generate().peer_id
        named = [Multiaddr(f"{ADDR}/p2p/{peer_id}") for peer_id in (other, own)]
        await say(peer, encode(Identify(agent_version="x", listen_addrs=tuple(named))))
        await identified(node)
        assert node.swarm.address_book.addrs(own) == [ADDR]
        assert node.swarm.address_book.addrs(other) == []


@pytest.mark.parametrize("whose", ["own", "another's"])
async def test_signed_records(whose, caplog):
    caplog.set_level(logging.INFO)
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        signer = peer.identity if whose == "own" else Identity.generate()
        record = seal_record(signer, 1, [ADDR])
        await say(peer, encode(Identify(agent_version="x", signed_record=record)))
        await identified(node)
        known = [ADDR] if whose == "own" else []
        assert node.swarm.address_book.addrs(signer.peer_id) == known
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("message", [b"\xff", bytes(70_000)])
async def test_nonsense_costs_no_more_than_the_answer(message, caplog):
    caplog.set_level(logging.INFO)
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await say(peer, message)
        await settled(lambda: not node._identify._asked)
        assert node.is_connected(peer.identity.peer_id)
        assert node.peers()[0].agent == ""
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_what_is_known_of_peers_is_bounded():
    async with node_with_echo(limits=Limits(max_connections=8, trim_grace=0)) as node:
        message = encode(Identify(agent_version="x", listen_addrs=(ADDR,)))
        for _ in range(30):
            async with attacking(node.swarm.addrs[0]) as peer:
                await say(peer, message)
                await identified(node)
            await settled(lambda: not node.peers())
        assert len(node.swarm.address_book) == 8
        await settled(lambda: not node._identify._asked)


# --- ping ---


async def test_pings_are_answered_until_the_peer_ends():
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        async with await a.open_stream(b.peer_id, PING) as stream:
            for number in range(3):
                await stream.send_all(bytes((number,)) * 20)
                await stream.send_all(bytes((number,)) * 12)
                assert await stream.receive_exactly(32) == bytes((number,)) * 32
            await stream.send_eof()
            assert await stream.receive_some() == b""


async def ping(stream: Stream) -> None:
    await stream.send_all(bytes(32))
    assert await stream.receive_exactly(32) == bytes(32)


async def test_streams_for_pings_are_few():
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await identified(a)
        await identified(b)
        streams = []
        for _ in range(MAX_STREAMS + 3):
            streams.append(await a.open_stream(b.peer_id, PING))
            await ping(streams[-1])  # handlers of streams that come together begin in any order
        for stream in streams[:3]:
            with pytest.raises(StreamResetError):
                await stream.receive_some()
        for stream in streams[3:]:
            await ping(stream)
            await stream.aclose()
        connection = b.swarm.registry.best(a.peer_id)
        assert connection is not None
        await settled(lambda: not connection.stream_count)
