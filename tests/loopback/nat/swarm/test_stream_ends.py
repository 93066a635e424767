"""How streams end, over TCP and QUIC alike: early answers, resets, peers that are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from lattica.errors import ConnectionClosedError, StreamResetError
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.lingering import MAX_BYTES
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from tests.support.nets.nets import LISTEN_ON, running, settled

ASK = "/test/ask/1"
ANSWER = bytes(range(256)) * 512

pytestmark = pytest.mark.parametrize("carrier", ["tcp", "quic"])


@asynccontextmanager
async def two(carrier: str) -> AsyncIterator[tuple[Swarm, Swarm]]:
    async with running(listen=LISTEN_ON[carrier]) as a, running(listen=LISTEN_ON[carrier]) as b:
        await a.connect(b.identity.peer_id, b.addrs)
        yield a, b


def _has_no_streams(connection: Connection) -> bool:
    return not connection.stream_count


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


@pytest.mark.parametrize("rest", [1, 300_000, 4_000_000, 4 * MAX_BYTES])
@pytest.mark.parametrize("reads", [0, 100])
async def test_an_answer_before_the_end_of_the_question(carrier, rest, reads) -> None:
    async def answer_early(stream: Stream) -> None:
        if reads:
            await stream.receive_exactly(reads)
        await stream.send_all(ANSWER)

    async with two(carrier) as (a, b):
        b.protocols.handle(ASK, answer_early)
        for _ in range(5):
            async with await a.open_stream(b.identity.peer_id, ASK) as stream:
                await stream.send_all(bytes(reads))
                try:
                    await stream.send_all(bytes(rest))
                    await stream.send_eof()
                except StreamResetError:
                    assert rest > MAX_BYTES
                else:
                    assert rest < MAX_BYTES
                assert await read_all(stream) == ANSWER
        for swarm in (a, b):
            [connection] = swarm.registry
            await settled(partial(_has_no_streams, connection))


async def test_a_sender_that_waits_for_credit_when_the_handler_returns(carrier) -> None:
    waits = trio.Event()

    async def answer_late(stream: Stream) -> None:
        await waits.wait()
        await stream.send_all(ANSWER)

    async with two(carrier) as (a, b):
        b.protocols.handle(ASK, answer_late)
        async with await a.open_stream(b.identity.peer_id, ASK) as stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(3_000_000))
                [connection] = b.registry
                await settled(
                    lambda: any(not s.receive_credit for s in connection.session.streams.values())
                )
                waits.set()
            await stream.send_eof()
            assert await read_all(stream) == ANSWER


async def test_a_code_says_why(carrier) -> None:
    async def refuse(stream: Stream) -> None:
        await stream.receive_some()
        stream.reset("no", 4711)

    async with two(carrier) as (a, b):
        b.protocols.handle(ASK, refuse)
        stream = await a.open_stream(b.identity.peer_id, ASK)
        await stream.send_all(b"?")
        with pytest.raises(StreamResetError) as caught:
            await stream.receive_some()
        assert caught.value.code == 4711
        assert stream.rtt is not None


async def test_handlers_are_cancelled_when_their_peers_are_gone(carrier) -> None:
    begun, cancelled, finished = [], [], []

    async def work(stream: Stream) -> None:
        assert await stream.receive_message(100) == b"work"
        begun.append(stream)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(stream)
            raise
        finally:
            finished.append(stream)

    async with two(carrier) as (a, b):
        b.protocols.handle(ASK, work, cancel_when_gone=True)

        async def ask() -> None:
            async with await a.open_stream(b.identity.peer_id, ASK) as stream:
                await stream.send_message(b"work")
                await stream.send_eof()
                await stream.receive_message(100)

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask)
            await settled(lambda: len(begun) == 60)
            assert not finished
            nursery.cancel_scope.cancel()
        await settled(lambda: len(finished) == 60)
        assert len(cancelled) == 60

        with pytest.RaisesGroup(ConnectionClosedError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await settled(lambda: len(begun) == 61)
                [connection] = a.registry
                connection.abort("gone")
        await settled(lambda: len(cancelled) == 61)


async def test_a_handler_may_ask_whether_its_peer_is_gone(carrier) -> None:
    told = trio.Event()
    states: list[bool] = []

    async def work(stream: Stream) -> None:
        states.append(stream.is_gone)
        await stream.wait_gone()
        states.append(stream.is_gone)
        told.set()

    async with two(carrier) as (a, b):
        b.protocols.handle(ASK, work)
        stream = await a.open_stream(b.identity.peer_id, ASK)
        await stream.send_all(b"x")
        stream.reset()
        await told.wait()
        assert states == [False, True]
