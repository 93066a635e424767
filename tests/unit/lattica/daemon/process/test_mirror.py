"""Streams that are passed on between two connections: bytes, ends, resets and their codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from lattica.daemon.process.mirror import pass_on
from lattica.errors import StreamResetError
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_host import memory_net

Handler = Callable[[Stream], Awaitable[object]]
MIB = 1024 * 1024


@asynccontextmanager
async def through(handler: Handler) -> AsyncIterator[Stream]:
    """A stream to a handler, by way of a host in the middle."""
    async with memory_net() as net:
        client, middle, server = net.host(), net.host(), net.host()

        async def carry(stream: Stream) -> None:
            await pass_on(stream, await middle.open_stream(server.peer_id, "/x/1"))

        server.handle("/x/1", handler, owner="test")
        middle.handle("/x/1", carry, owner="test")
        with trio.fail_after(60):
            async with await client.open_stream(middle.peer_id, "/x/1") as stream:
                yield stream


async def all_of(stream: Stream) -> bytes:
    parts = []
    while data := await stream.receive_some():
        parts.append(data)
    return b"".join(parts)


async def test_bytes_pass_and_each_direction_has_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def backwards(stream: Stream) -> None:
        await stream.send_all((await all_of(stream))[::-1])

    async with through(backwards) as stream:
        await stream.send_all(bytes(range(256)) * 4096)
        await stream.send_eof()
        assert await all_of(stream) == (bytes(range(256)) * 4096)[::-1]


async def test_resets_pass_with_their_codes_to_both_sides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def refuse(stream: Stream) -> None:
        await stream.receive_exactly(1)
        stream.reset("no", 17)

    async with through(refuse) as stream:
        await stream.send_all(b"a")
        with pytest.raises(StreamResetError) as caught:
            await stream.receive_some()
        assert caught.value.code == 17

    codes = []

    async def listen(stream: Stream) -> None:
        await stream.send_all(b"a")
        with pytest.raises(StreamResetError) as caught:
            await stream.receive_some()
        codes.append(caught.value.code)

    async with through(listen) as stream:
        await stream.receive_exactly(1)
        stream.reset("no", 18)
        await trio.sleep(1)
    assert codes == [18]


async def test_who_does_not_read_holds_the_sender_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def sleep(_: Stream) -> None:
        await trio.sleep_forever()

    sent = 0
    async with through(sleep) as stream:
        with trio.move_on_after(20):
            while True:
                await stream.send_all(bytes(64 * 1024))
                sent += 64 * 1024
        assert sent < 8 * MIB
        stream.reset()
