"""Streams that ask for content, or only take a place."""

from __future__ import annotations

import trio

from lattica.content.manifest.cid import Cid
from lattica.content.protocol import PROTOCOL, ManifestRequest, encode_request
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import answer_pings, attacking, propose, syn

IDENTITIES = 8
STREAMS = 16


async def _streams(victim: Victim, body: bytes) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def one() -> None:
        async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
            await enemy.set_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_pings, enemy)
                for number in range(100):
                    first = 1 + 2 * STREAMS * number
                    ids = range(first, first + 2 * STREAMS, 2)
                    await enemy.send_frames(*(syn(n, propose(PROTOCOL) + body) for n in ids))
                    await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        for _ in range(IDENTITIES):
            nursery.start_soon(one)


async def _idle(victim: Victim) -> None:
    await _streams(victim, b"")


async def _manifests(victim: Victim) -> None:
    await _streams(victim, encode_request(ManifestRequest(Cid.parse(victim.cid))) * 4)


IDLE = Attack(
    "content-idle",
    "128 idle streams of 8 keys where 128 are served",
    _idle,
    seconds=15,
    publishes=True,
    witness="fetching",
)
MANIFESTS = Attack(
    "content-manifests",
    "128 streams ask for a manifest of 7 MB four times and read nothing",
    _manifests,
    seconds=15,
    publishes=True,
    witness="fetching",
)
