"""What identify and identify-push take from anybody who has a key."""

from __future__ import annotations

import secrets
from itertools import count

import trio

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.yamux.frames import Flag
from lattica.nat.services.identify.messages import IDENTIFY_PUSH, MAX_ADDRS, Identify, encode
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import Attacker, attacking, data, propose, throw_away

_LARGE = 55 * 1024


def _addrs() -> tuple[Multiaddr, ...]:
    names = (f"/dns4/{secrets.token_hex(30)}.example/tcp/{n + 1}" for n in range(MAX_ADDRS))
    return tuple(map(Multiaddr, names))


def _message(identity: Identity, *, padding: int = 0) -> bytes:
    addrs = _addrs()
    protocols = tuple(f"/{number:x}" for number in range(padding // 6))
    return encode(
        Identify(
            public_key=identity.public_key_bytes,
            listen_addrs=addrs,
            protocols=("/ipfs/id/1.0.0", *protocols),
            observed_addr=addrs[0],
            signed_record=seal_record(identity, 1, addrs),
        )
    )


async def _say(enemy: Attacker, stream_id: int, message: bytes) -> None:
    body = propose(IDENTIFY_PUSH) + encode_length_prefixed(message)
    await enemy.send_frames(data(stream_id, body, Flag.SYN | Flag.FIN))


async def _push(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    while True:
        identity = Identity.generate()
        message = _message(identity, padding=_LARGE - 20 * 1024)
        async with attacking(addr, identity, source_ip=ENEMY_HOST) as enemy:
            await enemy.set_up()
            async with trio.open_nursery() as nursery:

                async def until_closed(enemy: Attacker = enemy, n: trio.Nursery = nursery) -> None:
                    await throw_away(enemy)
                    n.cancel_scope.cancel()

                nursery.start_soon(until_closed)
                for stream_id in count(1, 2):
                    await _say(enemy, stream_id, message)
                    await trio.sleep(0.005)


async def _identities(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def churn() -> None:
        while True:
            identity = Identity.generate()
            async with attacking(addr, identity, source_ip=ENEMY_HOST) as enemy:
                await enemy.set_up()
                await _say(enemy, 1, _message(identity))
                with trio.move_on_after(0.2):
                    await throw_away(enemy)

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(churn)


PUSH = Attack("identify-push", "pushes 55 KB of identify 200 times a second", _push)
IDENTITIES = Attack(
    "identities", "comes with a new key each time, and names 64 addresses", _identities, seconds=20
)
