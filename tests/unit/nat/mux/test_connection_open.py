"""Connection.open: a stream with a protocol that both sides agree on, or none at all."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lattica.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceLimitError,
    UnsupportedProtocolError,
)
from lattica.nat.config import Limits, Timeouts
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.multistream import PROTOCOL_ID, encode_message
from lattica.nat.swarm.serving.protocols import ProtocolTable, StreamHandler
from tests.support.pairs.connected import against_manual_peer, connected, echo, serve
from tests.support.pairs.yamux_pair import DATA, RST, data_frame, parse

HEADER = encode_message(PROTOCOL_ID)
ECHO = encode_message("/echo")


def table(**handlers: StreamHandler) -> ProtocolTable:
    made = ProtocolTable(negotiate_timeout=10)
    made.handle_all(handlers)
    return made


@pytest.mark.parametrize("protocols", ["/echo", ["/echo"], ["/echo/2", "/echo/1.1", "/echo"]])
async def test_opens_the_first_that_the_peer_speaks(protocols, autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, table(**{"/echo": echo}))
        async with await a.connection.open(protocols) as stream:
            assert stream.protocol == "/echo"
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        assert a.connection.known_protocols == {"/echo"}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("optimistic", [None, False])
async def test_refusal_leaves_nothing_behind(optimistic, autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, table())
        with pytest.raises(UnsupportedProtocolError):
            await a.connection.open("/none", optimistic=optimistic)
        await trio.testing.wait_all_tasks_blocked()
        assert a.connection.stream_count == b.connection.stream_count == 0
        nursery.cancel_scope.cancel()


async def test_refusal_is_told_later_when_it_was_assumed_away(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, table())
        stream = await a.connection.open("/none", optimistic=True)
        with pytest.raises(UnsupportedProtocolError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("known", [False, True])
async def test_what_is_sent_at_once_leaves_with_the_proposal(known, autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        if known:
            end.connection.known_protocols.add("/echo")
        await trio.testing.wait_all_tasks_blocked()
        sends = end.raw.sends
        stream = await end.connection.open("/echo", optimistic=None if known else True)
        await stream.send_all(b"request")
        await trio.testing.wait_all_tasks_blocked()
        assert end.raw.sends == sends + 1
        said = b"".join(f.body for f in parse(await peer.hear()) if f.kind == DATA)
        assert said == HEADER + ECHO + b"request"


async def test_known_protocol_may_be_waited_for_all_the_same(autojump_clock) -> None:
    async with against_manual_peer(timeouts=Timeouts(negotiate=3)) as (end, peer):
        end.connection.known_protocols.add("/echo")
        start = trio.current_time()
        with pytest.raises(TimeoutError, match="within 3 s when asked for /echo"):
            await end.connection.open("/echo", optimistic=False)
        assert trio.current_time() - start == 3
        await reset_is_heard(peer)


async def reset_is_heard(peer) -> None:
    while not any(f.flags & RST for f in parse(await peer.hear())):
        pass


async def test_cancellation_resets_the_stream(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        with trio.move_on_after(1):
            await end.connection.open("/echo")
        await reset_is_heard(peer)
        assert end.connection.stream_count == 0


async def test_answer_that_is_none_resets_the_stream(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        failed: list[Exception] = []

        async def ask() -> None:
            with pytest.raises(RemoteProtocolError) as info:
                await end.connection.open("/echo")
            failed.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await peer.say(data_frame(2, b"HTTP/1.1 400 " * 9))
        assert failed
        await reset_is_heard(peer)


async def test_what_the_caller_does_wrong_opens_nothing(autojump_clock) -> None:
    async with connected() as (a, _):
        for protocols, optimistic in (
            ([], None),
            ("/line\nbreak", None),
            (["/one", "/two"], True),
        ):
            with pytest.raises(LocalProtocolError):
                await a.connection.open(protocols, optimistic=optimistic)
        assert a.connection.stream_count == 0


async def test_no_place_or_no_connection(autojump_clock) -> None:
    async with connected(limits=Limits(max_streams_per_connection=1)) as (a, _):
        held: Stream = await a.connection.open("/echo", optimistic=True)
        with pytest.raises(ResourceLimitError):
            await a.connection.open("/echo", optimistic=True)
        held.reset()
        a.connection.abort("test")
        with pytest.raises(ConnectionClosedError, match="test"):
            await a.connection.open("/echo", optimistic=True)


async def test_streams_beyond_the_limit_wait_for_a_place(autojump_clock) -> None:
    async with connected(limits=Limits(max_streams_per_connection=2)) as (a, _):
        held = [a.open(), a.open()]
        a.connection.known_protocols.add("/x")
        opened = []

        async def open_one() -> None:
            opened.append(await a.connection.open("/x"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            await trio.testing.wait_all_tasks_blocked()
            assert opened == []
            held[0].reset()
        assert len(opened) == 1
        start = trio.current_time()
        with pytest.raises(ResourceLimitError, match=r"limits\.max_streams_per_connection"):
            await a.connection.open("/x")
        assert trio.current_time() - start == pytest.approx(Timeouts().negotiate)


async def test_the_limit_that_counts_is_named(autojump_clock) -> None:
    limits = Limits(receive_memory_per_connection=2 * INITIAL_WINDOW)
    async with connected(limits=limits) as (a, _):
        a.open()
        a.open()
        with pytest.raises(ResourceLimitError, match=r"limits\.receive_memory_per_connection"):
            a.open()
