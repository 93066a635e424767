"""What a stranger may do before anybody knows who it is."""

from __future__ import annotations

import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.wire import encode_length_prefixed
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import attacking, throw_away


class _PrivateKeyAsPublic(Identity):
    """Shows a private RSA key where a public one belongs; its primes take long to check."""

    __slots__ = ()

    def __init__(self, seed: bytes, der: bytes) -> None:
        super().__init__(seed)
        self.public_key_bytes = b"\x08\x00\x12" + encode_length_prefixed(der)


async def _rsa_keys(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))
    key = await trio.to_thread.run_sync(lambda: rsa.generate_private_key(65537, 4096))
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    while True:
        identity = _PrivateKeyAsPublic(Identity.generate().seed, der)
        async with attacking(addr, identity, source_ip=ENEMY_HOST) as enemy:
            await enemy.set_up()
            await throw_away(enemy)


async def _handshakes(victim: Victim) -> None:
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def again_and_again() -> None:
        while True:
            async with attacking(addr, source_ip=ENEMY_HOST) as enemy:
                await enemy.set_up()

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(again_and_again)


RSA_KEYS = Attack("rsa-keys", "shows private RSA keys where public ones belong", _rsa_keys)
HANDSHAKES = Attack(
    "handshakes", "32 dialers do nothing but handshakes", _handshakes, witness="dialing"
)
