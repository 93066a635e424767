"""Length-prefixed messages on streams: one at a time, and what follows stays."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import IncompleteReadError, RemoteProtocolError, StreamResetError
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.stream import Stream
from tests.support.pairs.connected import connected

LIMIT = 100_000


@pytest.mark.parametrize("tiny", [None, 1, 2])
async def test_message_is_received_and_what_follows_stays(tiny: int | None) -> None:
    async with connected(tiny=tiny) as (a, b):
        out = a.open()
        await out.send_all(encode_length_prefixed(b"request") + b"circuit")
        stream = await b.accept()
        assert await stream.receive_message(7) == b"request"
        assert await stream.receive_exactly(7) == b"circuit"
        await stream.send_message(b"answer")
        await stream.send_all(b"more")
        assert await out.receive_message(6) == b"answer"
        assert await out.receive_some() == b"more"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 126, 127, 128, 300, 16_384, 70_000]), max_size=6),
    st.none() | st.integers(0, 5),
    st.binary(max_size=300),
)
def test_messages_of_any_size_in_any_pieces(
    sizes: list[int], tiny: int | None, rest: bytes
) -> None:
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def main() -> None:
        async with connected(tiny=tiny) as (a, b), trio.open_nursery() as nursery:

            async def send() -> None:
                out = a.open()
                for message in messages:
                    await out.send_message(message)
                await out.send_all(rest)
                await out.send_eof()

            nursery.start_soon(send)
            if not messages and not rest:
                return
            stream = await b.accept()
            stream.push_back(b"")
            for message in messages:
                assert await stream.receive_message(LIMIT) == message
            assert await stream.receive_exactly(len(rest)) == rest
            assert await stream.receive_some() == b""

    trio.run(main)


async def test_many_messages_that_were_pushed_back() -> None:
    async with connected() as (a, b):
        await a.open().send_message(b"last")
        stream = await b.accept()
        stream.push_back(encode_length_prefixed(b"x" * 9) * 1000 + b"\x03on")
        for _ in range(1000):
            assert await stream.receive_message(9) == b"x" * 9
        # The one that is cut off goes on in what the connection brings.
        assert await stream.receive_message(9) == b"on\x04"
        assert await stream.receive_exactly(4) == b"last"


@pytest.mark.parametrize("length", [b"\x0b", b"\xff\xff\xff\xff\x0f", b"\xff" * 10, b"\x80\x00"])
async def test_length_that_may_not_be_is_refused_at_once(length: bytes) -> None:
    async with connected() as (a, b):
        await a.open().send_all(length)  # and no byte of a message
        stream = await b.accept()
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                await stream.receive_message(10)


@pytest.mark.parametrize("sent", [b"", b"\x80", b"\x05", b"\x05abcd", b"\x80\x01" + bytes(127)])
async def test_stream_that_ends_before_the_message(sent: bytes) -> None:
    async with connected() as (a, b):
        out = a.open()
        await out.send_all(sent)
        await out.send_eof()
        with pytest.raises(IncompleteReadError):
            await (await b.accept()).receive_message(LIMIT)


@pytest.mark.parametrize("cut", [1, 2, 3, 150])
async def test_cancellation_loses_nothing(cut: int, autojump_clock) -> None:
    message = bytes(range(200))
    data = encode_length_prefixed(message)
    async with connected() as (a, b):
        out = a.open()
        await out.send_all(data[:cut])
        stream = await b.accept()
        for _ in range(2):
            with trio.move_on_after(1) as scope:
                await stream.receive_message(LIMIT)
            assert scope.cancelled_caught
        await out.send_all(data[cut:] + b"rest")
        assert await stream.receive_message(LIMIT) == message
        assert await stream.receive_exactly(4) == b"rest"


async def test_reset_is_told(autojump_clock) -> None:
    async with connected() as (a, b):
        out = a.open()
        await out.send_all(b"\x05ab")
        stream = await b.accept()
        failed: list[Stream] = []

        async def receive() -> None:
            with pytest.raises(StreamResetError):
                await stream.receive_message(LIMIT)
            failed.append(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            out.reset()
        assert failed
