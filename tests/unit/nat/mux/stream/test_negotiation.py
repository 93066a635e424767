"""multistream-select on real streams: lazy and eager, refused, split, cut off and broken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing

from lattica.errors import (
    ConnectionClosedError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.multistream import PROTOCOL_ID, Initiator, encode_message
from lattica.nat.swarm.serving.protocols import ProtocolTable
from tests.support.pairs.connected import (
    End,
    against_manual_peer,
    connected,
    read_all,
    serve,
)
from tests.support.pairs.yamux_pair import (
    ACK,
    DATA,
    FIN,
    RST,
    WINDOW_UPDATE,
    data_frame,
    frame,
    parse,
)

HEADER = encode_message(PROTOCOL_ID)
ECHO = encode_message("/echo")
NA = encode_message("na")


def propose(end: End, *protocols: str, lazy: bool = False) -> Stream:
    stream = end.open()
    stream.begin_negotiation(Initiator(protocols))
    if lazy:
        stream.assume_protocol(protocols[0])
    return stream


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


def echo_table(*names: str) -> ProtocolTable:
    table = ProtocolTable(negotiate_timeout=10)
    for name in names:
        table.handle(name, echo)
    return table


# --- against our own responder ---


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("pipe", [{}, {"tiny": 1}], ids=["whole", "tiny"])
async def test_agreed(lazy: bool, pipe, autojump_clock) -> None:
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, echo_table("/echo"))
        stream = propose(a, "/echo", lazy=lazy)
        if not lazy:
            await stream.finish_negotiation()
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await read_all(stream) == b"hello"
        assert stream.protocol == "/echo"
        assert a.connection.known_protocols == {"/echo"}
        nursery.cancel_scope.cancel()


async def test_second_choice(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, echo_table("/echo"))
        stream = propose(a, "/echo/2", "/echo/1.1", "/echo")
        await stream.finish_negotiation()
        assert stream.protocol == "/echo"
        assert a.connection.known_protocols == {"/echo"}
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocols", [["/none"], ["/none", "/neither"]])
async def test_refused(protocols: Sequence[str], autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, echo_table("/echo"))
        stream = propose(a, *protocols)
        with pytest.raises(UnsupportedProtocolError, match=", ".join(protocols)) as info:
            await stream.finish_negotiation()
        assert info.value.protocols == tuple(protocols)
        assert stream.is_dead
        await trio.sleep(1)
        assert b.connection.stream_count == 0
        nursery.cancel_scope.cancel()


async def test_data_for_a_refused_protocol_runs_no_other(autojump_clock) -> None:
    """The data has the form of a proposal of what the peer does speak (go-multistream#20)."""
    async with connected() as (a, b), trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def delete(stream: Stream) -> None:
            got.append(await stream.receive_some())

        table = ProtocolTable(negotiate_timeout=10)
        table.handle("/delete", delete)
        nursery.start_soon(serve, b, table)
        stream = propose(a, "/none", lazy=True)
        await stream.send_message(b"/delete\n")
        await stream.send_all(b"everything")
        with pytest.raises(UnsupportedProtocolError):
            await stream.receive_some()
        await trio.sleep(20)
        assert got == []
        assert b.connection.stream_count == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data", [b"", b"\x05text\n", b"\xff\xff\xff\xff" * 100, bytes(300_000), b"\x13/hello\n" * 9000]
)
async def test_lazy_and_refused(data: bytes, caplog, autojump_clock) -> None:
    """Whatever was sent without waiting: each method says what is wrong, and nobody is blamed."""
    caplog.set_level(logging.INFO)
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, echo_table("/echo"))
        a.connection.known_protocols.add("/none")
        stream = propose(a, "/none", lazy=True)
        if data:
            nursery.start_soon(send_in_vain, stream, data)
        for method in (
            stream.receive_some,
            stream.receive_view,
            lambda: stream.receive_exactly(1),
            lambda: stream.send_all(b"more"),
            stream.send_eof,
        ):
            with pytest.raises(UnsupportedProtocolError, match="does not speak /none"):
                await method()
        await stream.aclose()
        assert a.connection.known_protocols == set()
        await trio.sleep(20)
        assert b.connection.stream_count == 0
        assert [record.getMessage() for record in caplog.records] == []
        nursery.cancel_scope.cancel()


async def send_in_vain(stream: Stream, data: bytes) -> None:
    with suppress(UnsupportedProtocolError):
        await stream.send_all(data)


async def test_a_blocked_writer_hears_of_the_refusal(autojump_clock) -> None:
    """Though nobody receives."""
    async with connected() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve, b, echo_table())
        stream = propose(a, "/none", lazy=True)
        with pytest.raises(UnsupportedProtocolError):
            await stream.send_all(bytes(2_000_000))
        nursery.cancel_scope.cancel()


# --- against a responder by hand ---


@pytest.mark.parametrize("lazy", [False, True])
async def test_answer_in_every_split(lazy: bool, autojump_clock) -> None:
    answer = HEADER + ECHO + b"and data"
    async with against_manual_peer() as (end, peer):
        for cut in range(1, len(answer)):
            stream = propose(end, "/echo", lazy=lazy)
            number = stream.id
            async with trio.open_nursery() as nursery:
                if not lazy:
                    nursery.start_soon(stream.finish_negotiation)
                await peer.say(data_frame(number, answer[:cut], ACK))
                await trio.testing.wait_all_tasks_blocked()
                await peer.say(data_frame(number, answer[cut:], FIN))
            assert await stream.receive_exactly(8) == b"and data"
            assert await stream.receive_some() == b""
            assert stream.protocol == "/echo"
            await stream.aclose()


async def test_answer_byte_by_byte(autojump_clock) -> None:
    answer = HEADER + ECHO + b"and data"
    async with against_manual_peer() as (end, peer):
        stream = propose(end, "/echo", lazy=True)
        await peer.say(*(data_frame(2, bytes([byte])) for byte in answer))
        await peer.say(data_frame(2, b"", FIN))
        assert await read_all(stream) == b"and data"


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("rest", [b"", b"and data"])
async def test_answer_whose_news_comes_late(lazy: bool, rest: bytes, autojump_clock) -> None:
    """A connection tells some of its streams in a turn, and others look by themselves before."""
    async with against_manual_peer() as (end, _):
        stream = propose(end, "/echo", lazy=lazy)
        session = end.connection.session
        assert isinstance(session, Session)
        session.receive(data_frame(stream.id, HEADER + ECHO + rest, ACK | FIN))
        if not lazy:
            await stream.finish_negotiation()
        assert await read_all(stream) == rest
        assert stream.protocol == "/echo"
        await stream.aclose()


async def test_request_does_not_wait_when_lazy(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        await peer.hear()
        stream = propose(end, "/echo", lazy=True)
        await stream.send_all(b"request")
        said = b"".join(f.body for f in parse(await peer.hear()) if f.kind == DATA)
        assert said == HEADER + ECHO + b"request"


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("answer", [b"", HEADER, HEADER + ECHO[:3]])
async def test_end_in_the_middle(lazy: bool, answer: bytes, autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        stream = propose(end, "/echo", lazy=lazy)
        await peer.say(data_frame(2, answer, FIN))
        with pytest.raises(RemoteProtocolError, match="while negotiating"):
            await (stream.receive_some() if lazy else stream.finish_negotiation())
        await stream.aclose()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        b"\x00",
        b"\xff" * 20,
        HEADER + HEADER,
        HEADER + encode_message("/other"),
        b"HTTP/1.1 400 " * 9,
    ],
)
async def test_garbage_for_an_answer(lazy: bool, answer: bytes, autojump_clock) -> None:
    """It costs the stream; the others of the connection go on."""
    async with against_manual_peer() as (end, peer):
        other = propose(end, "/echo", lazy=True)
        stream = propose(end, "/echo", lazy=lazy)
        await peer.say(data_frame(4, answer))
        with pytest.raises(RemoteProtocolError):
            await (stream.receive_some() if lazy else stream.finish_negotiation())
        await peer.say(data_frame(2, HEADER + ECHO + b"fine"))
        assert await other.receive_some() == b"fine"
        await trio.testing.wait_all_tasks_blocked()
        said = parse(await peer.hear())
        while not any(f.flags & RST for f in said):
            said += parse(await peer.hear())
        assert [f.stream_id for f in said if f.flags & RST] == [4]


async def test_refusal_and_reset_at_once(autojump_clock) -> None:
    """As go-libp2p answers; what came first says why."""
    async with against_manual_peer() as (end, peer):
        stream = propose(end, "/none", lazy=True)
        await peer.say(data_frame(2, HEADER + NA), frame(WINDOW_UPDATE, RST, 2, 0))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnsupportedProtocolError):
            await stream.receive_some()


async def test_reset_and_loss_while_negotiating(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        one, two = propose(end, "/echo"), propose(end, "/echo")
        async with trio.open_nursery() as nursery:

            async def reset() -> None:
                with pytest.raises(StreamResetError):
                    await one.finish_negotiation()

            async def lost() -> None:
                with pytest.raises(ConnectionClosedError):
                    await two.finish_negotiation()

            nursery.start_soon(reset)
            nursery.start_soon(lost)
            await trio.testing.wait_all_tasks_blocked()
            await peer.say(frame(WINDOW_UPDATE, RST, 2, 0))
            await trio.testing.wait_all_tasks_blocked()
            peer.raw.abort()


async def test_closed_by_this_side_while_negotiating(autojump_clock) -> None:
    async with against_manual_peer() as (end, _), trio.open_nursery() as nursery:
        stream = propose(end, "/echo")

        async def wait() -> None:
            with pytest.raises(StreamClosedError):
                await stream.finish_negotiation()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()


async def test_cancelled_while_negotiating(autojump_clock) -> None:
    """And then finished after all: no byte of the answer was lost."""
    answer = HEADER + ECHO + b"and data"
    async with against_manual_peer() as (end, peer):
        stream = propose(end, "/echo")
        for byte in answer:
            with trio.move_on_after(1):
                await stream.finish_negotiation()
            await peer.say(data_frame(2, bytes([byte])))
        await stream.finish_negotiation()
        assert await stream.receive_exactly(8) == b"and data"


# --- our responder, with a dialer by hand ---


async def test_responder_hands_over_what_came_with_the_proposal(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve, end, echo_table("/echo"))
        await peer.hear()
        await peer.say(data_frame(1, HEADER + ECHO + b"data", 1))
        said = b""
        while len(said) < len(HEADER + ECHO) + 4:
            said += b"".join(f.body for f in parse(await peer.hear()))
        assert said == HEADER + ECHO + b"data"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("opening", [b"\x00", b"\xff" * 20, b"GET / HTTP/1.1\r\n" * 9, ECHO])
async def test_responder_meets_garbage(opening: bytes, caplog, autojump_clock) -> None:
    async with against_manual_peer() as (end, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve, end, echo_table("/echo"))
        await peer.hear()
        await peer.say(data_frame(1, opening, 1))
        said = parse(await peer.hear())
        while not said[-1].flags & RST:
            said += parse(await peer.hear())
        assert end.connection.closed_reason is None
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert "peer breaks multistream" in record.getMessage()
        nursery.cancel_scope.cancel()


async def test_responder_does_not_wait_for_ever(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve, end, echo_table("/echo"))
        await peer.say(data_frame(1, HEADER, 1), data_frame(3, b"", 1 | FIN))
        await trio.sleep(9)
        assert list(end.connection.session.streams) == [1]
        await trio.sleep(2)
        assert end.connection.stream_count == 0
        nursery.cancel_scope.cancel()
