"""Targets of topics: RPCs of GossipSub, and the router that takes them from a peer."""

from __future__ import annotations

import random

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.core.router import Router
from lattica.dht.topics.messages import (
    MAX_ENTRIES,
    MAX_IDS,
    Control,
    Exchanged,
    Ihave,
    Prune,
    decode_rpc,
    encode_control,
    encode_publish,
    encode_signed,
    encode_subscriptions,
    encode_unsigned,
)
from lattica.dht.topics.signing import PREFIX, StrictSigning
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.wire import encode_length_prefixed, find_message
from tools.fuzz.target import Target, Violation

TOPIC = "t"
ME, PEER = Identity(bytes(range(32))), Identity(bytes(range(1, 33)))
_UNSIGNED = encode_unsigned(PEER.peer_id.to_bytes(), b"data", bytes(7) + b"\x01", TOPIC.encode())
MESSAGE = encode_publish(encode_signed(_UNSIGNED, PEER.sign(PREFIX + _UNSIGNED), b""))
CONTROL = Control(
    (Ihave(TOPIC, (b"id",)),),
    (b"id",),
    (TOPIC,),
    (Prune(TOPIC, (Exchanged(PEER.peer_id.to_bytes(), b"record"),), 60),),
    (b"id",),
)
SEEDS = [encode_subscriptions([(TOPIC, True), ("u", False)]), MESSAGE, encode_control(CONTROL)]
TOKENS = [
    b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x08\x01", b"\x08\x00", b"\x01t",
    b"\x18\x3c", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", PEER.peer_id.to_bytes(),
]  # fmt: skip


def _rpc(data: bytes) -> None:
    rpc = decode_rpc(data)
    if len(rpc.publish) > MAX_ENTRIES or len(rpc.subscriptions) > MAX_ENTRIES:
        raise Violation("more than there may be")
    if rpc.control is not None:
        ids = rpc.control.iwant + rpc.control.idontwant
        if len(ids) > MAX_IDS or decode_rpc(encode_control(rpc.control)).control != rpc.control:
            raise Violation(f"{rpc.control} is another one once written and read")


def _router(data: bytes) -> None:
    """RPCs one after the other, with a heartbeat after each."""
    router = Router(
        ME.peer_id,
        TopicsConfig(),
        StrictSigning(ME.peer_id, ME.sign),
        random.Random(7),
        first_seqno=0,
    )
    router.add_peer(PEER.peer_id, Version.V12, 1.0)
    router.subscribe(TOPIC, 1.0)
    now, at = 1.0, 0
    while (span := find_message(data, 4096, at)) is not None and span[1] <= len(data):
        router.receive(PEER.peer_id, data[span[0] : span[1]], now)
        now, at = now + 0.5, span[1]
        router.heartbeat(now)
    router.remove_peer(PEER.peer_id, now)
    if router.topics.keys() != {TOPIC} or router.topics[TOPIC].mesh:
        raise Violation("a peer has left something behind")


TOPICS_RPC = Target("topics-rpc", _rpc, (RemoteProtocolError,), seeds=SEEDS, tokens=TOKENS)
TOPICS_ROUTER = Target(
    "topics-router",
    _router,
    (RemoteProtocolError,),
    seeds=[encode_length_prefixed(seed) for seed in SEEDS]
    + [b"".join(map(encode_length_prefixed, SEEDS))],
    tokens=TOKENS,
)
