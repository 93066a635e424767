"""Hostile clients of a port that is exposed, and a hostile service behind one that is forwarded."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from itertools import count

import trio

from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.stream import Stream
from lattica.rpc.ports.messages import MAX_TEXT, PORTS, Answer, Code, encode_answer, encode_request
from lattica.rpc.ports.messages import Request as PortRequest
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.attacks.rpc.caller import on_streams, send
from tools.attack.ported import ENEMY, KEPT, SERVICE
from tools.attack.witnesses import client

STREAMS = 256
"""Of each key at a time: as many as a peer may have."""
_GUESSING = 32


async def _silent(stream: Stream) -> None:
    await trio.sleep_forever()


async def _hold(stream: Stream) -> None:
    """Be connected with the service, and say nothing."""
    await stream.send_message(encode_request(PortRequest(SERVICE)))
    while await stream.receive_some():
        pass


async def _guess(stream: Stream) -> None:
    request = PortRequest(KEPT, secrets.token_hex(16).encode())
    await send(stream, encode_length_prefixed(encode_request(request)))
    await stream.receive_some()


async def _serve(victim: Victim) -> None:
    """Have a service that answers in every way it can, and floods who connects with it."""
    addr, peer = split_peer(parse_multiaddr(victim.tcp))
    assert peer is not None
    numbers = count()

    async def answer(stream: Stream) -> None:
        await stream.receive_message(1024)
        kind = next(numbers) % 6
        if kind == 0:
            await stream.send_message(encode_answer(Answer(Code.OK)))
            while True:
                await send(stream, bytes(256 * 1024))
        elif kind == 1:
            await stream.send_message(encode_answer(Answer(Code.BUSY, "\x1b[2J" * MAX_TEXT)))
        elif kind == 2:
            await send(stream, secrets.token_bytes(64 * 1024))
        elif kind == 3:
            await trio.sleep_forever()
        elif kind == 4:
            await stream.send_message(encode_answer(Answer(Code.OK)))
        stream.reset("so there")

    async with client(ENEMY) as enemy:
        enemy.swarm.protocols.handle(PORTS, answer)
        async with enemy.swarm.dial_unshared(peer, addr, source_ip=ENEMY_HOST):
            await trio.sleep_forever()


def _attack(name: str, summary: str, act: Callable[[Stream], Awaitable[None]], n: int) -> Attack:
    async def run(victim: Victim) -> None:
        await on_streams(victim, PORTS, act, n)

    return Attack(name, summary, run, seconds=12, ports=True, witness="forwarding")


SILENT = _attack("ports-silent", "8 keys open 256 streams each and name no port", _silent, STREAMS)
HELD = _attack("ports-held", "8 keys hold 256 connections to a service each", _hold, STREAMS)
REFUSED = _attack("ports-refused", "guesses the key of a port without end", _guess, _GUESSING)
SERVICE_OF_ENEMY = Attack(
    "ports-service",
    "a service that is forwarded from the enemy floods, and breaks the protocol",
    _serve,
    ports=True,
    witness="forwarding",
)
