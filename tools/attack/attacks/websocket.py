"""What a stranger may send over a WebSocket before it has said who it is."""

from __future__ import annotations

from contextlib import suppress

import trio

from lattica.nat.base.net.addresses import parse_multiaddr, split_peer, to_endpoint
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import Attacker

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: victim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_FIRST = b"\x02\x80" + bytes(4)
"""An empty binary message that goes on, masked with zeros."""
_MORE = b"\x00\x80" + bytes(4)
_SIZE = 256 * 1024
"""Bytes of a frame that a stranger may send."""
_LONG = b"\x82\xff" + _SIZE.to_bytes(8, "big") + bytes(4)
"""The head of such a frame."""


async def _open(victim: Victim) -> trio.SocketStream:
    addr, _ = split_peer(parse_multiaddr(victim.websocket))
    port = to_endpoint(addr).port
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=ENEMY_HOST)
    await stream.send_all(_UPGRADE)
    while b"\r\n\r\n" not in await stream.receive_some():
        pass
    return stream


async def _fragments(victim: Victim) -> None:
    async def again_and_again() -> None:
        while True:
            async with await _open(victim) as stream:
                await stream.send_all(_FIRST)
                with suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(_MORE * 10_000)
                        Attacker.sent += len(_MORE) * 10_000

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(again_and_again)


async def _memory(victim: Victim) -> None:
    async def hold() -> None:
        while True:
            with suppress(trio.BrokenResourceError):
                async with await _open(victim) as stream:
                    await stream.send_all(_LONG + bytes(_SIZE - 1))
                    Attacker.sent += _SIZE
                    await stream.receive_some()

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(hold)


FRAGMENTS = Attack("websocket-fragments", "sends empty fragments of a message", _fragments)
MEMORY = Attack("websocket-memory", "200 strangers send all but the end of 256 KiB", _memory)
