"""The messages of GossipSub, as values and as bytes.

Sources: pubsub/README.md, gossipsub-v1.0.md, -v1.1.md and -v1.2.md of
https://github.com/libp2p/specs. Each RPC goes over a stream with its length in front. Pure.

What is not in the specifications: go takes RPCs of 1 MiB, js of 4 MiB, and rust, unless it is set
otherwise, of 64 KiB. Written one after the other, two RPCs are one that holds what both held, as
protocol buffers have it; that is how small ones are put together here, up to :data:`MAX_JOINED`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lattica.dht.pb import pubsub_pb2 as pb
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.protobuf import decode_text, parse_message
from lattica.nat.base.wire import NeedMoreData, decode_uvarint, encode_uvarint

GOSSIPSUB_12 = "/meshsub/1.2.0"
GOSSIPSUB_11 = "/meshsub/1.1.0"
GOSSIPSUB_10 = "/meshsub/1.0.0"
PROTOCOLS = (GOSSIPSUB_12, GOSSIPSUB_11, GOSSIPSUB_10)
"""Newest first."""

MAX_RPC = 1024 * 1024
"""Bytes of an RPC, without the length in front."""
MAX_DATA = MAX_RPC - 4096
"""Bytes of a message's data, beside what else is in its RPC."""
MAX_JOINED = 32 * 1024
"""Bytes up to which RPCs are put together."""
MAX_TOPIC = 1024
"""Bytes of a topic's name."""
MAX_ID = 256
"""Bytes of a message ID."""
MAX_IDS = 20_000
"""Message IDs in an RPC."""
MAX_ENTRIES = 4096
"""Messages, subscriptions, and control messages in an RPC: so many of each."""
MAX_EXCHANGED = 64
"""Peers in a PRUNE that are looked at."""

_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY = (
    b"\x0a",
    b"\x12",
    b"\x1a",
    b"\x22",
    b"\x2a",
    b"\x32",
)
_PUBLISH = b"\x12"


@dataclass(frozen=True, slots=True)
class Ihave:
    """What the sender has of a topic."""

    topic: str
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Another peer of a topic, with its signed record if the sender has one."""

    peer_id: bytes
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class Prune:
    """The receiver is not in the sender's mesh."""

    topic: str
    peers: tuple[Exchanged, ...] = ()
    backoff: int | None = None
    """Seconds; None: not said."""


@dataclass(frozen=True, slots=True)
class Control:
    """What is said about messages and the mesh."""

    ihave: tuple[Ihave, ...] = ()
    iwant: tuple[bytes, ...] = ()
    graft: tuple[str, ...] = ()
    prune: tuple[Prune, ...] = ()
    idontwant: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Rpc:
    """An RPC from a peer."""

    subscriptions: tuple[tuple[str, bool], ...]
    """Topics, and whether it is subscribed to them now."""
    publish: tuple[pb.Message, ...]
    """As they came: what was signed are their very bytes."""
    control: Control | None


# --- to bytes ---


def encode_subscriptions(changes: Iterable[tuple[str, bool]]) -> bytes:
    """An RPC that says what the sender is, and is not, subscribed to."""
    return pb.RPC(
        subscriptions=[
            pb.RPC.SubOpts(subscribe=wanted, topicid=topic.encode()) for topic, wanted in changes
        ]
    ).SerializeToString()


def encode_control(control: Control) -> bytes:
    """An RPC of control messages."""
    return pb.RPC(
        control=pb.ControlMessage(
            ihave=[
                pb.ControlIHave(topicID=ihave.topic.encode(), messageIDs=ihave.ids)
                for ihave in control.ihave
            ],
            iwant=[pb.ControlIWant(messageIDs=control.iwant)] if control.iwant else (),
            graft=[pb.ControlGraft(topicID=topic.encode()) for topic in control.graft],
            prune=[
                pb.ControlPrune(
                    topicID=prune.topic.encode(),
                    peers=[
                        pb.PeerInfo(peerID=peer.peer_id, signedPeerRecord=peer.record or None)
                        for peer in prune.peers
                    ],
                    backoff=prune.backoff,
                )
                for prune in control.prune
            ],
            idontwant=[pb.ControlIDontWant(messageIDs=control.idontwant)]
            if control.idontwant
            else (),
        )
    ).SerializeToString()


def encode_unsigned(source: bytes, data: bytes, seqno: bytes, topic: bytes) -> bytes:
    """A message as it is signed: its fields in the order of their numbers."""
    return b"".join(
        (
            _FROM, encode_uvarint(len(source)), source,
            _DATA, encode_uvarint(len(data)), data,
            _SEQNO, encode_uvarint(len(seqno)), seqno,
            _TOPIC, encode_uvarint(len(topic)), topic,
        )
    )  # fmt: skip


def encode_publish(message: bytes) -> bytes:
    """An RPC with one message."""
    return b"".join((_PUBLISH, encode_uvarint(len(message)), message))


def encode_signed(unsigned: bytes, signature: bytes, key: bytes) -> bytes:
    """A message with its signature; `key` is empty where the ID of its author holds it."""
    signed = (unsigned, _SIGNATURE, encode_uvarint(len(signature)), signature)
    return b"".join((*signed, _KEY, encode_uvarint(len(key)), key) if key else signed)


def check_topic(topic: object) -> bytes:
    """The bytes of a topic's name. Raises LocalProtocolError for what can be none."""
    if not isinstance(topic, str) or not topic:
        raise LocalProtocolError(
            f"a topic is named by a text that is not empty, not {topic!r:.100}"
        )
    try:
        name = topic.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{topic!r:.100} cannot be the name of a topic") from None
    if len(name) > MAX_TOPIC:
        raise LocalProtocolError(f"a topic's name has at most {MAX_TOPIC} bytes, not {len(name)}")
    return name


# --- from bytes ---


def is_lone_message(rpc: bytes) -> bool:
    """Whether an RPC is one message, which costs little to read however long it is."""
    try:
        size, start = decode_uvarint(rpc, len(_PUBLISH))
    except (NeedMoreData, RemoteProtocolError):
        return False
    return rpc.startswith(_PUBLISH) and start + size == len(rpc)


def decode_rpc(data: bytes) -> Rpc:
    """Read what a peer sends.

    Its messages are not looked into: see :mod:`lattica.dht.topics.signing`.

    Raises:
        RemoteProtocolError: it is no RPC, or over a limit.
    """
    message = parse_message(pb.RPC(), data, "a GossipSub RPC", limit=MAX_RPC)
    if len(message.publish) > MAX_ENTRIES or len(message.subscriptions) > MAX_ENTRIES:
        raise RemoteProtocolError("a GossipSub RPC with too many messages or subscriptions")
    subscriptions = tuple(
        (_topic(change.topicid), change.subscribe) for change in message.subscriptions
    )
    control = _control(message.control) if message.HasField("control") else None
    return Rpc(subscriptions, tuple(message.publish), control)


def _control(message: pb.ControlMessage) -> Control:
    count = len(message.ihave) + len(message.iwant) + len(message.graft)
    if count + len(message.prune) + len(message.idontwant) > MAX_ENTRIES:
        raise RemoteProtocolError("a GossipSub RPC with too many control messages")
    listed = (
        sum(len(part.messageIDs) for part in message.ihave)
        + sum(len(part.messageIDs) for part in message.iwant)
        + sum(len(part.messageIDs) for part in message.idontwant)
    )
    if listed > MAX_IDS:
        raise RemoteProtocolError(f"{listed} message IDs in one RPC")
    return Control(
        tuple(Ihave(_topic(part.topicID), _ids(part.messageIDs)) for part in message.ihave),
        tuple(one for part in message.iwant for one in _ids(part.messageIDs)),
        tuple(_topic(part.topicID) for part in message.graft),
        tuple(
            Prune(
                _topic(part.topicID),
                tuple(
                    Exchanged(peer.peerID, peer.signedPeerRecord)
                    for peer in part.peers[:MAX_EXCHANGED]
                ),
                part.backoff if part.HasField("backoff") else None,
            )
            for part in message.prune
        ),
        tuple(one for part in message.idontwant for one in _ids(part.messageIDs)),
    )


def _ids(ids: Iterable[bytes]) -> tuple[bytes, ...]:
    found = tuple(ids)
    if found and max(map(len, found)) > MAX_ID:
        raise RemoteProtocolError("a message ID that is too long")
    return found


def _topic(name: bytes) -> str:
    if len(name) > MAX_TOPIC:
        raise RemoteProtocolError(f"a topic with a name of {len(name)} bytes")
    return decode_text(name, "a topic's name")
