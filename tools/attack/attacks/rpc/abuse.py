"""What the protocol allows, made use of: deadlines, sessions that go on, half-closed streams."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from itertools import count

import msgpack
import trio

from lattica.nat.config import MIB
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.protocol.frames import CONTROL, SESSION_BYTES, encode_hello
from lattica.rpc.protocol.messages import DATA, Kind, encode_call, encode_message
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.rpc.caller import (
    acknowledge,
    as_many,
    batches,
    on_streams,
    request,
    send,
    session,
)

_AT_ONCE = 512
"""Calls of each enemy that end at the same moment: with eight, twice what a network may have."""
_EVERY = 2.0
"""Seconds between such moments."""
_ANSWER = 60_000
_KEPT = 7 * MIB
"""Bytes of answers that are not acknowledged: less than what a peer may leave."""
_HALF_CLOSED = 512
"""Streams of each enemy."""


def _attack(name: str, summary: str, run: Callable[[Victim], Awaitable[None]]) -> Attack:
    return Attack(name, summary, run, seconds=10, calls=True, witness="calling-methods")


async def _deadlines(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        stream, lock, numbers = await session(connection), trio.Lock(), count()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acknowledge, stream, lock)
            while True:
                now = trio.current_time()
                moment = (now // _EVERY + 2) * _EVERY
                left = int(1000 * (moment - now))
                calls = [request(next(numbers), "wait", timeout_ms=left) for _ in range(_AT_ONCE)]
                for batch in batches(calls):
                    async with lock:
                        await send(stream, batch)
                await trio.sleep_until(moment + _EVERY / 10)

    await as_many(victim, one)


async def _resumed(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        name = secrets.token_bytes(SESSION_BYTES)
        stream = await connection.open(CONTROL)
        arguments = b"\x91" + msgpack.packb(bytes(_ANSWER))
        await send(stream, encode_hello(name, 0, 1))
        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, stream)
                for n in range(_KEPT // _ANSWER):
                    await send(stream, request(n, "echo", arguments))
                await trio.sleep_forever()
        for number in count(2):
            stream = await connection.open(CONTROL)
            await send(stream, encode_hello(name, 0, number))
            await stream.receive_some()

    await as_many(victim, one)


async def _read(stream: Stream) -> None:
    while await stream.receive_some():
        pass


async def _half_closed(stream: Stream) -> None:
    method, kind = secrets.choice([("wait", 0), ("count", 1), ("items", 2)])
    call = encode_call(msgpack.packb(f"Served.{method}"), kind, Encoded(b"\x90", ()))
    await send(stream, encode_message(Kind.CALL, call))
    await stream.send_eof()
    await trio.sleep_forever()


async def _all_half_closed(victim: Victim) -> None:
    await on_streams(victim, DATA, _half_closed, _HALF_CLOSED)


DEADLINES = _attack(
    "rpc-deadlines", "calls whose deadlines pass at the same moment, 4,096 at a time", _deadlines
)
RESUMED = _attack(
    "rpc-resumed", "goes on with a session on stream after stream, acknowledges nothing", _resumed
)
HALF_CLOSED = _attack(
    "rpc-half-closed", "4,096 streams with a call, closed at the caller's end", _all_half_closed
)
