"""What is sent in the place of the writer of a connection, and what the writer gathers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from lattica.nat.mux.stream import Stream
from lattica.nat.swarm import yamux_connection
from tests.support.pairs.connected import End, Pipe, connected, quiet

HOUR = 3600.0


@asynccontextmanager
async def a_stream(capacity: int = 1 << 20) -> AsyncIterator[tuple[Stream, Stream, End]]:
    """A stream on a connection that rests, its other end, and the other side."""
    async with connected(capacity=capacity) as (a, b):
        stream = a.connection.open_stream()
        await stream.send_all(b"hello")
        other = await b.accept()
        assert await other.receive_exactly(5) == b"hello"
        await quiet()
        yield stream, other, b


def on_its_way(end: End) -> int:
    """Bytes that lie in the pipe to it."""
    return len(end.raw._inbox)


@pytest.fixture
def nothing_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux_connection, "_ALONE", 0.0)
    monkeypatch.setattr(yamux_connection, "_GATHERING", 0.0)


@pytest.mark.usefixtures("nothing_is_gathered", "autojump_clock")
async def test_a_message_that_comes_alone_leaves_at_once() -> None:
    async with a_stream() as (stream, _, b):
        for number in range(3):
            assert stream.send_nowait(b"x" * 128)
            assert on_its_way(b) == (number + 1) * (128 + 12 + 18)  # yamux, Noise


@pytest.mark.usefixtures("autojump_clock")
async def test_messages_one_upon_the_other_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux_connection, "_ALONE", HOUR)
    async with a_stream() as (stream, other, b):
        end = b.raw.peer
        assert isinstance(end, Pipe)
        sends = end.sends
        stream.send_nowait(b"x" * 128)
        alone = on_its_way(b)
        for _ in range(3):
            stream.send_nowait(b"x" * 128)
        assert on_its_way(b) == alone
        await quiet()
        assert await other.receive_exactly(4 * 128) == b"x" * 4 * 128
        assert end.sends == sends + 1


@pytest.mark.usefixtures("autojump_clock")
async def test_as_many_as_are_enough_do_not_wait_for_the_writer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yamux_connection, "_ALONE", HOUR)
    async with a_stream() as (stream, other, b):
        stream.send_nowait(b"x" * 128)
        alone = on_its_way(b)
        for _ in range(31):
            stream.send_nowait(b"x" * 128)
        assert on_its_way(b) == alone
        stream.send_nowait(b"x" * 128)
        assert on_its_way(b) == alone + 32 * 128 + 12 + 18
        stream.send_nowait(b"y" * 128)
        assert on_its_way(b) == alone + 32 * 128 + 12 + 18
        assert await other.receive_exactly(34 * 128) == b"x" * 33 * 128 + b"y" * 128


@pytest.mark.usefixtures("autojump_clock")
async def test_larger_ones_are_left_to_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux_connection, "_ALONE", HOUR)
    async with a_stream() as (stream, other, b):
        stream.send_nowait(b"x" * 128)
        alone = on_its_way(b)
        stream.send_nowait(b"x" * 2000)
        for _ in range(50):
            stream.send_nowait(b"x" * 128)
        assert on_its_way(b) == alone
        assert await other.receive_exactly(51 * 128 + 2000) == b"x" * (51 * 128 + 2000)


@pytest.mark.usefixtures("autojump_clock")
async def test_what_the_socket_does_not_take_is_not_overtaken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yamux_connection, "_ALONE", HOUR)
    async with a_stream(capacity=300) as (stream, other, b):
        sent = [bytes([number]) * 128 for number in range(200)]
        for each in sent:
            stream.send_nowait(each)
        assert on_its_way(b) == 300
        assert await other.receive_exactly(200 * 128) == b"".join(sent)


@pytest.mark.usefixtures("nothing_is_gathered", "autojump_clock")
async def test_large_messages_are_the_writers() -> None:
    async with a_stream() as (stream, other, b):
        stream.send_nowait(b"x" * 20_000)
        assert on_its_way(b) == 0
        assert await other.receive_exactly(20_000) == b"x" * 20_000


@pytest.mark.usefixtures("nothing_is_gathered", "autojump_clock")
async def test_what_the_socket_does_not_take_is_sent_first_by_the_writer() -> None:
    async with a_stream(capacity=50) as (stream, other, b):
        sent = [bytes([number]) * 128 for number in range(20)]
        async with trio.open_nursery() as nursery:
            for each in sent:
                stream.send_nowait(each)
            assert on_its_way(b) == 50
            nursery.start_soon(stream.send_all, b"the end")
            assert await other.receive_exactly(20 * 128) == b"".join(sent)
            assert await other.receive_exactly(7) == b"the end"


@pytest.mark.usefixtures("nothing_is_gathered", "autojump_clock")
async def test_a_socket_that_has_broken_is_found_by_the_writer() -> None:
    async with a_stream() as (stream, _, b):
        b.raw.closed = True
        stream.send_nowait(b"x")
        await stream.connection.closed.wait()
