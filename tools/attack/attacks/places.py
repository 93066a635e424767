"""Places that everybody shares: connections, handshakes, memory for what is received."""

from __future__ import annotations

import trio

from lattica.nat.base.net.addresses import parse_multiaddr, split_peer, to_endpoint
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.yamux.frames import Flag
from lattica.rpc.protocol.messages import DATA
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import answer_pings, attacking, data, propose
from tools.attack.victim import SLOW

_KEYS, _STREAMS = 32, 1000


async def _half_open(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    port = to_endpoint(addr).port

    async def hold() -> None:
        while True:
            async with await trio.open_tcp_stream(
                "127.0.0.1", port, local_address=ENEMY_HOST
            ) as stream:
                try:
                    await stream.receive_some()
                    await trio.sleep_forever()
                except trio.BrokenResourceError:
                    continue

    async with trio.open_nursery() as nursery:
        for _ in range(2500):
            nursery.start_soon(hold)


async def _connections(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    limit = trio.CapacityLimiter(16)

    async def hold() -> None:
        while True:
            async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
                async with limit:
                    await enemy.set_up()
                if enemy.is_set_up:
                    await answer_pings(enemy)
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        for _ in range(1200):
            nursery.start_soon(hold)


async def _unread(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def hold() -> None:
        async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
            await enemy.set_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_pings, enemy)
                stream_id = 1
                while True:
                    for _ in range(80):
                        head = propose(SLOW)
                        await enemy.send_frames(
                            data(stream_id, head + bytes(200 * KIB), Flag.SYN),
                        )
                        stream_id += 2
                        await trio.sleep(0.005)
                    await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(hold)


async def _streams(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    named = propose(DATA)

    async def hold() -> None:
        async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
            await enemy.set_up()
            for number in range(_STREAMS):
                await enemy.send_frames(data(1 + 2 * number, named, Flag.SYN))
            await answer_pings(enemy)

    async with trio.open_nursery() as nursery:
        for _ in range(_KEYS):
            nursery.start_soon(hold)


HALF_OPEN = Attack(
    "half-open",
    "opens 2,500 connections and says nothing; 1,024 descriptors",
    _half_open,
    seconds=15,
    files=1024,
    witness="dialing",
)
CONNECTIONS = Attack(
    "connections",
    "1,200 keys from one host, where there is room for 300 connections",
    _connections,
    seconds=30,
    victim={"swarm.limits.max_connections": 300},
    witness="dialing",
)
UNREAD = Attack(
    "unread-memory",
    "fills the memory for what nobody reads with small streams",
    _unread,
    seconds=10,
    victim={"swarm.limits.receive_memory_total": 32 * MIB},
    witness="slow-reading",
)
STREAMS = Attack(
    "streams-held",
    "32 keys open 1,000 streams each, name a protocol, and say no more",
    _streams,
    seconds=15,
    calls=True,
    witness="calling-methods",
)
