"""A caller that makes its frames itself."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import msgpack
import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.rpc.protocol.frames import (
    CONTROL,
    MAX_FRAME,
    NIL,
    SESSION_BYTES,
    Kind,
    encode_hello,
    encode_numbered,
    encode_request,
)
from tools.attack.attack import ENEMY_HOST, Victim
from tools.attack.stranger import Attacker
from tools.attack.witnesses import client

IDENTITIES = 8
"""Callers at a time, each with a key of its own."""
EMPTY = b"\x90"
"""No arguments, packed."""
_ANSWERS = (Kind.RESULT, Kind.ERROR, Kind.ELSEWHERE)
_ACKNOWLEDGED = 64
"""Answers after which they are acknowledged."""


@asynccontextmanager
async def connected(
    victim: Victim, identity: Identity, source_ip: str = ENEMY_HOST
) -> AsyncIterator[Connection]:
    """A connection of a peer with this key."""
    addr, peer = split_peer(parse_multiaddr(victim.tcp))
    assert peer is not None
    async with (
        client(identity) as enemy,
        enemy.swarm.dial_unshared(peer, addr, source_ip=source_ip) as connection,
    ):
        yield connection


async def as_many(
    victim: Victim,
    act: Callable[[Connection], Awaitable[None]],
    identities: int = IDENTITIES,
    *,
    source_ip: str = ENEMY_HOST,
) -> None:
    """Do something as so many peers; each comes again with another key when it has lost its
    connection or a stream.
    """

    async def one(connection: Connection, _: Identity) -> None:
        await act(connection)

    await as_peers(victim, one, identities, source_ip=source_ip)


async def as_peers(
    victim: Victim,
    act: Callable[[Connection, Identity], Awaitable[None]],
    identities: int = IDENTITIES,
    *,
    keep_keys: bool = False,
    source_ip: str = ENEMY_HOST,
) -> None:
    """The same, where it matters who one is. `keep_keys`: each comes again with the key it had."""

    async def as_one() -> None:
        identity = Identity.generate()
        while True:
            try:
                async with connected(victim, identity, source_ip) as connection:
                    await act(connection, identity)
            except* _LOST:
                pass
            await trio.sleep(0.05)
            if not keep_keys:
                identity = Identity.generate()

    async with trio.open_nursery() as nursery:
        for _ in range(identities):
            nursery.start_soon(as_one)


_LOST = (LatticaError, OSError, trio.BrokenResourceError)


async def on_streams(
    victim: Victim, protocol: str, act: Callable[[Stream], Awaitable[None]], streams: int
) -> None:
    """Do something on so many streams of each enemy at a time, again and again."""

    async def again_and_again(connection: Connection) -> None:
        while True:
            async with await connection.open(protocol) as stream:
                await act(stream)

    async def one(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(again_and_again, connection)

    await as_many(victim, one)


async def send(stream: Stream, data: bytes) -> None:
    """Send, and count it."""
    await stream.send_all(data)
    Attacker.sent += len(data)


async def session(connection: Connection) -> Stream:
    """A stream of the control plane that has said hello."""
    stream = await connection.open(CONTROL)
    await send(stream, encode_hello(secrets.token_bytes(SESSION_BYTES), 0, 1))
    return stream


def request(
    call: int, method: str, arguments: bytes = EMPTY, metadata: object = None, timeout_ms: int = 0
) -> bytes:
    """A request of the service."""
    return encode_request(
        call,
        msgpack.packb(f"Served.{method}"),
        arguments,
        timeout_ms=timeout_ms or None,
        metadata=NIL if metadata is None else msgpack.packb(metadata),
    )


def batches(requests: Iterable[bytes], size: int = 64 * 1024) -> Iterable[bytes]:
    """Requests, in pieces of about `size` bytes."""
    batch = bytearray()
    for each in requests:
        batch += each
        if len(batch) >= size:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


async def make_calls(stream: Stream, requests: Iterable[bytes]) -> None:
    """Send requests, and take the answers and say so, as clients do."""
    lock = trio.Lock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledge, stream, lock)
        for batch in batches(requests):
            async with lock:
                await send(stream, batch)
        await trio.sleep_forever()


async def acknowledge(stream: Stream, lock: trio.Lock) -> None:
    """Take answers, and say so as clients do."""
    reader = LengthPrefixed(MAX_FRAME)
    answers = said = 0
    while data := await stream.receive_some():
        answers += sum(frame[1] in _ANSWERS for frame in reader.feed(data))
        if answers - said >= _ACKNOWLEDGED:
            said = answers
            async with lock:
                await send(stream, encode_numbered(Kind.ACK, answers))
