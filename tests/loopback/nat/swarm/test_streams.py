"""Streams between two swarms: agreeing on a protocol, handlers, and handlers that fail."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    PeerLimitError,
    RemoteProtocolError,
    ResourceLimitError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.config import Limits, Timeouts
from lattica.nat.secure.multistream import Responder
from lattica.nat.swarm.swarm import Swarm
from tests.support.nets.nets import ECHO, ask_echo, echo, proxied, running, settled, tasks

pytestmark = pytest.mark.usefixtures("swarm_transport")

OTHER = "/test/other/1"


@asynccontextmanager
async def joined(**changes) -> AsyncIterator[tuple[Swarm, Swarm]]:
    """Two connected swarms: the dialer, and the one that it dialed."""
    async with running(listen=(), **changes) as client, running(**changes) as server:
        await client.dial(server.identity.peer_id, server.addrs)
        await server.wait_connected(client.identity.peer_id)
        yield client, server


def streams(swarm: Swarm) -> int:
    return sum(connection.stream_count for connection in swarm.registry)


async def no_streams(*swarms: Swarm) -> None:
    await settled(lambda: not any(map(streams, swarms)))


def ours(caplog) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.levelno >= logging.INFO and "listening" not in r.msg]


# --- handlers ---


async def test_a_handler_that_returns_closes_the_stream():
    async with joined() as (client, server):

        async def greet(stream):
            assert stream.protocol == OTHER
            assert stream.peer_id == client.identity.peer_id
            await stream.send_all(b"welcome")

        server.protocols.handle(OTHER, greet)
        assert await ask_echo(client, server.identity.peer_id, b"ignored", OTHER) == b"welcome"
        await no_streams(client, server)


async def raise_value_error(stream):
    raise ValueError("a defect")


async def raise_from_a_nursery(stream):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_value_error, stream)
        await trio.sleep_forever()


@pytest.mark.parametrize("handler", [raise_value_error, raise_from_a_nursery])
async def test_a_handler_that_raises_costs_its_stream_and_a_line(caplog, handler):
    async with joined() as (client, server):
        server.protocols.handle(OTHER, handler)
        peer_id = server.identity.peer_id
        async with await client.open_stream(peer_id, [ECHO]) as lasting:
            for _ in range(3):
                caplog.clear()
                with pytest.raises(StreamResetError, match="reset by the peer"):
                    await ask_echo(client, peer_id, b"x", OTHER)
                (record,) = ours(caplog)
                assert record.levelno == logging.ERROR
                assert OTHER in record.getMessage()
                assert str(client.identity.peer_id) in record.getMessage()
                assert "a defect" in caplog.text
            await lasting.send_all(b"unharmed")
            assert await lasting.receive_exactly(8) == b"unharmed"
        await no_streams(client, server)


async def test_a_handler_that_answers_when_the_peer_has_left_is_no_news(caplog):
    """The peer finished the stream, and then closed the connection."""
    caplog.set_level(logging.INFO)
    done = trio.Event()
    async with joined() as (client, server):

        async def answer(stream):
            while await stream.receive_some():
                pass
            await stream.connection.closed.wait()
            try:
                await stream.send_all(b"too late")
            finally:
                done.set()

        server.protocols.handle(OTHER, answer)
        stream = await client.open_stream(server.identity.peer_id, [OTHER])
        await stream.send_all(b"nonce")
        await stream.send_eof()
        await wait_all_tasks_blocked(0.01)
        await client.disconnect(server.identity.peer_id)
        await done.wait()
        await wait_all_tasks_blocked(0.01)
        assert ours(caplog) == []


async def test_a_handler_that_the_peer_breaks_the_protocol_of(caplog):
    async with joined() as (client, server):

        async def strict(stream):
            raise RemoteProtocolError("frame of type 99")

        server.protocols.handle(OTHER, strict)
        with pytest.raises(StreamResetError):
            await ask_echo(client, server.identity.peer_id, b"x", OTHER)
        (record,) = ours(caplog)
        assert record.levelno == logging.WARNING
        assert record.exc_info is None
        assert "frame of type 99" in record.getMessage()


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_a_peer_that_leaves_in_the_middle_is_no_news(caplog, in_nursery):
    async with joined() as (client, server):
        began, ended = trio.Event(), trio.Event()

        async def read_much(stream):
            began.set()
            try:
                if in_nursery:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(stream.receive_exactly, 1000)
                else:
                    await stream.receive_exactly(1000)
            finally:
                ended.set()

        server.protocols.handle(OTHER, read_much)
        stream = await client.open_stream(server.identity.peer_id, [OTHER])
        await began.wait()
        stream.reset()
        await ended.wait()
        await no_streams(server)
        assert ours(caplog) == []


async def test_a_handler_that_hangs_holds_up_nobody_and_ends_with_the_swarm():
    ended = []

    async def hang(stream):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(stream)

    before = tasks()
    async with joined() as (client, server):
        server.protocols.handle(OTHER, hang)
        held = [await client.open_stream(server.identity.peer_id, [OTHER]) for _ in range(5)]
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        assert not ended
        held[0].reset()
        await wait_all_tasks_blocked(0.01)
        assert not ended
    assert len(ended) == 5
    assert tasks() == before


async def test_a_handler_that_fails_while_it_is_cancelled_does_not_fail_the_swarm(caplog):
    async def fail_at_the_end(stream):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the cleanup")

    async with joined() as (client, server):
        server.protocols.handle(OTHER, fail_at_the_end)
        await client.open_stream(server.identity.peer_id, [OTHER])
    assert "in the cleanup" in caplog.text


async def test_replacing_and_removing_a_handler():
    async with joined() as (client, server):
        peer_id = server.identity.peer_id

        async def shout(stream):
            await stream.send_all((await stream.receive_some()).upper())

        async with await client.open_stream(peer_id, [ECHO]) as old:
            # An answer says that the handler has the stream; opening alone does not.
            await old.send_all(b"new")
            assert await old.receive_exactly(3) == b"new"
            server.protocols.handle(ECHO, shout)
            assert await ask_echo(client, peer_id, b"hey") == b"HEY"
            server.protocols.unhandle(ECHO)
            await old.send_all(b"old")
            assert await old.receive_exactly(3) == b"old"


# --- agreeing on a protocol ---


async def test_the_first_protocol_that_the_peer_speaks():
    async with joined() as (client, server):
        peer_id = server.identity.peer_id
        server.protocols.handle(OTHER, echo)
        for wanted, agreed in (
            (["/test/unknown/1", ECHO, OTHER], ECHO),
            (["/test/unknown/1", OTHER, ECHO], OTHER),
            ([OTHER], OTHER),
        ):
            stream = await client.open_stream(peer_id, wanted)
            assert stream.protocol == agreed
            await stream.aclose()


async def test_an_unknown_protocol():
    async with joined() as (client, server):
        for wanted in ([OTHER], [OTHER, "/test/unknown/1"]):
            with pytest.raises(UnsupportedProtocolError) as caught:
                await client.open_stream(server.identity.peer_id, wanted)
            assert caught.value.protocols == tuple(wanted)
            assert str(server.identity.peer_id) in str(caught.value)
            assert all(name in str(caught.value) for name in wanted)
        await no_streams(client, server)
        assert await ask_echo(client, server.identity.peer_id) == b"hello"


@pytest.mark.parametrize("bad", [["a\nb"], ["x" * 2000], []])
async def test_unusable_names_are_the_callers_fault(bad):
    async with joined() as (client, server):
        with pytest.raises(LocalProtocolError):
            await client.open_stream(server.identity.peer_id, bad)
        await no_streams(client, server)


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_a_protocol_known_on_the_connection_costs_no_round_trip():
    async with (
        running() as server,
        running(listen=()) as client,
        proxied(server.addrs[0]) as proxy,
    ):
        peer_id = server.identity.peer_id
        await client.dial(peer_id, [proxy.addr])
        assert await ask_echo(client, peer_id) == b"hello"
        proxy.freeze()
        second = await client.open_stream(peer_id, [ECHO])
        assert second.protocol == ECHO
        await second.send_all(b"early")
        await second.send_eof()
        with trio.move_on_after(0.05) as scope:
            await client.open_stream(peer_id, [OTHER])
        assert scope.cancelled_caught
        proxy.thaw()
        assert await second.receive_exactly(5) == b"early"
        assert await second.receive_some() == b""


async def test_a_protocol_given_up_meanwhile_is_noticed_and_not_assumed_again():
    async with joined() as (client, server):
        peer_id = server.identity.peer_id
        await ask_echo(client, peer_id)
        server.protocols.unhandle(ECHO)
        stream = await client.open_stream(peer_id, [ECHO])
        await stream.send_all(b"into the blue")
        with pytest.raises(UnsupportedProtocolError):
            await stream.receive_some()
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(peer_id, [ECHO])
        await no_streams(client, server)


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_a_peer_that_does_not_answer():
    async with (
        running() as server,
        running(timeouts=Timeouts(negotiate=1)) as client,
        proxied(server.addrs[0]) as proxy,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        proxy.freeze()
        with pytest.raises(TimeoutError, match=f"did not answer within 1 s.*{OTHER}"):
            await client.open_stream(server.identity.peer_id, [OTHER])
        assert streams(client) == 0
        proxy.thaw()
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await no_streams(server)


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_cancelling_open_stream_leaves_nothing():
    async with running() as server, running() as client, proxied(server.addrs[0]) as proxy:
        await client.dial(server.identity.peer_id, [proxy.addr])
        proxy.freeze()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.open_stream, server.identity.peer_id, [ECHO])
            await wait_all_tasks_blocked()
            assert streams(client) == 10
            nursery.cancel_scope.cancel()
        assert streams(client) == 0
        proxy.thaw()
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await no_streams(server)


@pytest.mark.only_over("tcp", "a QUIC stream without data is not there")
async def test_an_inbound_stream_that_names_nothing_in_time(caplog):
    caplog.set_level(logging.INFO, "lattica")
    async with joined(timeouts=Timeouts(negotiate=1)) as (client, server):
        caplog.clear()
        (connection,) = client.registry
        stream = connection.open_stream()
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        (record,) = ours(caplog)
        assert "no protocol named in time" in record.getMessage()
        assert str(client.identity.peer_id) in record.getMessage()
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await no_streams(client, server)


async def test_an_inbound_stream_that_ends_before_it_names_anything(caplog):
    async with joined() as (client, server):
        (connection,) = client.registry
        async with connection.open_stream() as stream:
            await stream.send_eof()
            assert await stream.receive_some() == b""
        await no_streams(client, server)
        assert ours(caplog) == []


async def test_what_follows_the_negotiation_at_once_is_not_lost():
    """The proposal, the data and the end in one piece."""
    async with joined() as (client, _server):
        (connection,) = client.registry
        reference = Responder(lambda name: True, list)
        stream = connection.open_stream()
        await stream.send_all(
            b"\x13/multistream/1.0.0\n" + bytes([len(ECHO) + 1]) + ECHO.encode() + b"\nearly"
        )
        await stream.send_eof()
        reference.receive(b"\x13/multistream/1.0.0\n" + bytes([len(ECHO) + 1]) + ECHO.encode())
        reference.receive(b"\n")
        answer = reference.data_to_send()
        assert await stream.receive_exactly(len(answer) + 5) == answer + b"early"


# --- budgets of streams ---


async def test_streams_of_a_connection_are_limited_on_both_sides():
    limits = Limits(max_streams_per_connection=5)
    async with joined(limits=limits, timeouts=Timeouts(negotiate=3.0)) as (client, server):
        peer_id = server.identity.peer_id
        held = [await client.open_stream(peer_id, [ECHO]) for _ in range(5)]
        with pytest.raises(ResourceLimitError, match="5 streams"):
            await client.open_stream(peer_id, [ECHO])
        await held.pop().aclose()
        await settled(lambda: streams(client) == 4)
        assert await ask_echo(client, peer_id) == b"hello"


async def test_the_side_that_is_asked_for_too_many_refuses_each():
    async with (
        running(limits=Limits(max_streams_per_connection=5)) as server,
        running(listen=(), timeouts=Timeouts(negotiate=0.5)) as client,
    ):
        peer_id = server.identity.peer_id
        await client.dial(peer_id, server.addrs)
        held = [await client.open_stream(peer_id, [ECHO]) for _ in range(5)]
        for _ in range(3):
            with pytest.raises(PeerLimitError):
                await ask_echo(client, peer_id)
        for stream in held:
            await stream.send_all(b"well")
            assert await stream.receive_exactly(4) == b"well"
            await stream.aclose()
        await no_streams(server)
        assert await ask_echo(client, peer_id) == b"hello"


@pytest.mark.only_over("tcp", "a QUIC stream without data is not there")
async def test_streams_that_do_not_say_what_they_want_are_limited():
    limits = Limits(max_inbound_streams_negotiating=3)
    async with running(limits=limits) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        connection = await client.dial(peer_id, server.addrs)
        undecided = [connection.open_stream() for _ in range(3)]
        await settled(lambda: streams(server) == 3)
        with pytest.raises(StreamResetError):
            await ask_echo(client, peer_id)
        undecided[0].reset()
        await settled(lambda: streams(server) == 2)
        # Those who have agreed do not count.
        agreed = []
        for _ in range(10):
            agreed.append(await client.open_stream(peer_id, [ECHO]))
            await agreed[-1].send_all(b"hello")
            assert await agreed[-1].receive_exactly(5) == b"hello"
        for stream in (*agreed, *undecided):
            stream.reset()
        await no_streams(client, server)
        assert server.inbound_streams.negotiating == {}


# --- the end of the connection ---


async def test_streams_end_with_their_connection_and_say_why():
    async with joined() as (client, server):
        stream = await client.open_stream(server.identity.peer_id, [ECHO])
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(ConnectionClosedError, match="the connection is gone"):
                    await stream.receive_some()

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await server.disconnect(client.identity.peer_id)
        with pytest.raises(ConnectionClosedError):
            await stream.send_all(b"x")
        assert server.registry.total == 0
        await settled(lambda: client.registry.total == 0)


async def test_what_was_sent_before_a_disconnect_arrives():
    async with joined() as (client, server):
        received = []
        done = trio.Event()

        async def collect(stream):
            while data := await stream.receive_some():
                received.append(data)
            done.set()

        server.protocols.handle(OTHER, collect)
        stream = await client.open_stream(server.identity.peer_id, [OTHER])
        await stream.send_all(bytes(200_000))
        await stream.aclose()
        await client.disconnect(server.identity.peer_id)
        await done.wait()
        assert sum(map(len, received)) == 200_000
