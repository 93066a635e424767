"""What topics take from anybody who has a key."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache, partial
from itertools import count

import trio

from lattica.dht.topics.messages import (
    GOSSIPSUB_12,
    Control,
    Exchanged,
    Ihave,
    Prune,
    encode_control,
    encode_publish,
    encode_signed,
    encode_subscriptions,
    encode_unsigned,
)
from lattica.dht.topics.signing import StrictSigning
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.yamux.frames import Flag
from tools.attack.attack import ENEMY_HOST, Attack, Victim
from tools.attack.stranger import attacking, data, propose, throw_away
from tools.attack.victim import TOPIC

_STREAM = 200 * 1024
"""Bytes on one stream: less than its window."""
_PAUSE = 0.005
_NOBODY = Identity.generate().peer_id.to_bytes()
_AUTHOR = Identity.generate()
"""Whose messages all bring."""
_MESSAGES = 20
"""Of those, of 4 KiB each."""
_KEY_LASTS = 1.0
"""Seconds after which the enemy comes with another key."""


def _rpcs(make: Callable[[], bytes], opening: bytes) -> bytes:
    """RPCs for one stream, the first of which subscribes."""
    body = bytearray(encode_length_prefixed(encode_subscriptions([(TOPIC, True)])) + opening)
    while len(body) < _STREAM:
        body += encode_length_prefixed(make())
    return bytes(body[: 250 * 1024])


def _nothing(identity: Identity) -> bytes:
    del identity
    return b""


async def _flood(
    victim: Victim, make: Callable[[Identity], bytes], opening: Callable[[Identity], bytes]
) -> None:
    """Send what `make` returns on stream after stream, with new keys all the time, each of which
    begins with what `opening` returns."""
    addr, _ = split_peer(parse_multiaddr(victim.tcp))

    async def as_somebody() -> None:
        while True:
            identity = Identity.generate()
            body = _rpcs(lambda: make(identity), opening(identity))  # noqa: B023 - called at once
            async with attacking(addr, identity, source_ip=ENEMY_HOST) as enemy:
                await enemy.set_up()
                with trio.move_on_after(_KEY_LASTS):
                    async with trio.open_nursery() as nursery:

                        async def until_closed() -> None:
                            await throw_away(enemy)
                            nursery.cancel_scope.cancel()

                        nursery.start_soon(until_closed)
                        for stream_id in count(1, 2):
                            await enemy.send_frames(
                                data(stream_id, propose(GOSSIPSUB_12), Flag.SYN),
                                data(stream_id, body, Flag.FIN),
                            )
                            await trio.sleep(_PAUSE)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(as_somebody)


def _messages(identity: Identity, count: int, size: int = 0) -> bytes:
    """As everybody may say them."""
    signing = StrictSigning(identity.peer_id, identity.sign)
    signed = (signing.sign(TOPIC.encode(), bytes(size), number) for number in range(1, count + 1))
    return b"".join(encode_length_prefixed(encode_publish(message)) for message in signed)


@cache
def _authors() -> bytes:
    return _messages(_AUTHOR, _MESSAGES, 4096)


def _brought(identity: Identity) -> bytes:
    """What another has said."""
    del identity
    return _authors()


def _copies(identity: Identity) -> bytes:
    """A message that was there before."""
    del identity
    return _copy()


@cache
def _copy() -> bytes:
    return encode_publish(StrictSigning(_AUTHOR.peer_id, _AUTHOR.sign).sign(TOPIC.encode(), b"", 1))


def _iwants(identity: Identity) -> bytes:
    """All that another has said, again."""
    del identity
    author = _AUTHOR.peer_id.to_bytes()
    ids = (author + number.to_bytes(8, "big") for number in range(1, _MESSAGES + 1))
    return encode_control(Control(iwant=tuple(ids)))


def _prunes(identity: Identity) -> bytes:
    """In the mesh and out of it."""
    del identity
    return encode_control(Control(graft=(TOPIC,), prune=(Prune(TOPIC, backoff=1),) * 1000))


def _grafts(identity: Identity) -> bytes:
    del identity
    return encode_control(Control(graft=(TOPIC,) * 3000))


def _ihaves(identity: Identity) -> bytes:
    del identity
    ids = tuple(secrets.token_bytes(46) for _ in range(1000))
    return encode_control(Control(ihave=(Ihave(TOPIC, ids),)))


def _subscriptions(identity: Identity) -> bytes:
    del identity
    return encode_subscriptions([(secrets.token_hex(8), True) for _ in range(2000)])


def _empties(identity: Identity) -> bytes:
    """Nothing at all, in a byte for each RPC."""
    del identity
    return b""


def _toggles(identity: Identity) -> bytes:
    del identity
    return _toggled()


@cache
def _toggled() -> bytes:
    return encode_subscriptions([(TOPIC, number % 2 == 0) for number in range(4096)])


def _exchanges(identity: Identity) -> bytes:
    """Peers whose records are signed by somebody else."""
    record = seal_record(identity, 1, ())
    named = tuple(Exchanged(_NOBODY, record) for _ in range(16))
    return encode_control(Control(prune=(Prune(TOPIC, named),) * 60))


def _forgeries(identity: Identity) -> bytes:
    author = identity.peer_id.to_bytes()
    unsigned = encode_unsigned(author, bytes(64), secrets.token_bytes(8), TOPIC.encode())
    return encode_publish(encode_signed(unsigned, bytes(64), b""))


def _attack(
    name: str,
    summary: str,
    make: Callable[[Identity], bytes],
    opening: Callable[[Identity], bytes] = _nothing,
) -> Attack:
    async def run(victim: Victim) -> None:
        await _flood(victim, make, opening)

    return Attack(name, summary, run, topics=True, witness="publishing")


GRAFTS = _attack("topic-grafts", "grafts itself 3,000 times in an RPC", _grafts)
IHAVES = _attack("topic-ihaves", "tells of messages that there are not", _ihaves)
SUBSCRIPTIONS = _attack("topic-subscriptions", "subscribes to topics without end", _subscriptions)
EMPTIES = _attack("topic-empties", "RPCs without a byte", _empties)
TOGGLES = _attack(
    "topic-toggles",
    "subscribes to a topic and leaves it 2,048 times in an RPC",
    _toggles,
    partial(_messages, count=100),
)
EXCHANGES = _attack(
    "topic-exchanges", "names peers with wrong records", _exchanges, partial(_messages, count=20)
)
COPIES = _attack("topic-copies", "brings one and the same message without end", _copies)
IWANTS = _attack("topic-iwants", "wants messages again and again, with new keys", _iwants, _brought)
PRUNES = _attack(
    "topic-prunes", "grafts itself, and prunes the victim 1,000 times in an RPC", _prunes
)
FORGERIES = _attack("topic-forgeries", "brings messages that nobody has signed", _forgeries)
