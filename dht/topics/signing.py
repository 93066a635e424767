"""Who has said it: messages are signed by their authors (StrictSign), and numbered by them.

Source: pubsub/README.md "Message Signing" and "Message Identification": the signature is over
"libp2p-pubsub:" and the message without signature and key; a message's ID is its author and number.
Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lattica.dht.pb import pubsub_pb2 as pb
from lattica.dht.topics.messages import (
    MAX_TOPIC,
    encode_publish,
    encode_signed,
    encode_unsigned,
)
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id
from lattica.nat.base.keys.public_keys import PublicKey, decode_public_key
from lattica.nat.base.protobuf import decode_text

PREFIX = b"libp2p-pubsub:"
SEQNO = 8
"""Bytes of a message's number, big-endian."""
_MAX_AUTHORS = 1024
_INLINED = b"\x00"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a topic."""

    topic: str
    data: bytes
    source: PeerId
    """Who has published it."""
    seqno: int
    """Its number, which its author gives no other message; below 2**64."""
    via: PeerId
    """The peer that has brought it; the author itself where this is its own node's."""

    @property
    def id(self) -> bytes:
        """What it is known by: its author and number."""
        return self.source.to_bytes() + self.seqno.to_bytes(SEQNO, "big")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message from a peer, of which nobody has checked yet that its author has signed it."""

    message: Message
    id: bytes
    raw: pb.Message


class Signing(Protocol):
    """Makes and checks messages. :class:`StrictSigning` is the one for networks."""

    def sign(self, topic: bytes, data: bytes, seqno: int) -> bytes:
        """A message of ours, as bytes."""
        ...

    def verify(self, claimed: Claimed) -> bool:
        """Whether its author has signed it; never raises."""
        ...


class Authors:
    """Binary peer IDs as objects, one for each: those that were used last."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, PeerId] = OrderedDict()

    def get(self, raw: bytes) -> PeerId:
        """Raises RemoteProtocolError for what is no peer ID."""
        found = self._known.get(raw)
        if found is None:
            found = self._known[raw] = decode_peer_id(raw)
            if len(self._known) > _MAX_AUTHORS:
                self._known.popitem(last=False)
        return found


def read_message(raw: pb.Message, via: PeerId, authors: Authors) -> Claimed:
    """A message that a peer has sent, as a value.

    Raises:
        RemoteProtocolError: it has no author, number, topic or signature, as it must have.
    """
    source, seqno, name = raw.source, raw.seqno, raw.topic
    if len(seqno) != SEQNO or not name or len(name) > MAX_TOPIC or not raw.HasField("signature"):
        raise RemoteProtocolError("a message without number, topic or signature")
    author = authors.get(source)
    message = Message(
        decode_text(name, "a topic's name"), raw.data, author, int.from_bytes(seqno, "big"), via
    )
    return Claimed(message, source + seqno, raw)


class StrictSigning:
    """Ed25519 for our own messages; whatever keys libp2p has for others'.

    Args:
        peer_id: who we are, with an inlined key, as an Ed25519 key is.
        sign: signs bytes with our key.
    """

    def __init__(self, peer_id: PeerId, sign: Callable[[bytes], bytes]) -> None:
        self._source = peer_id.to_bytes()
        self._sign = sign
        self._keys: OrderedDict[bytes, PublicKey] = OrderedDict()

    def sign(self, topic: bytes, data: bytes, seqno: int) -> bytes:
        unsigned = encode_unsigned(self._source, data, seqno.to_bytes(SEQNO, "big"), topic)
        return encode_signed(unsigned, self._sign(PREFIX + unsigned), b"")

    def verify(self, claimed: Claimed) -> bool:
        raw = claimed.raw
        try:
            key = self._key_of(claimed.message.source, raw.key)
        except RemoteProtocolError:
            return False
        bare = pb.Message()
        bare.CopyFrom(raw)
        bare.ClearField("signature")
        bare.ClearField("key")
        return key.verify(PREFIX + bare.SerializeToString(), raw.signature)

    def _key_of(self, author: PeerId, given: bytes) -> PublicKey:
        """The author's key: given beside the signature, or in its ID."""
        name = author.to_bytes()
        key = self._keys.get(name)
        if key is None or given:
            inlined = name[2:] if name[:1] == _INLINED else b""
            if key is None or key.encode() != given:
                key = decode_public_key(given or inlined)
                if PeerId.from_public_key(key) != author:
                    raise RemoteProtocolError("the key is another peer's")
            self._keys[name] = key
            if len(self._keys) > _MAX_AUTHORS:
                self._keys.popitem(last=False)
        return key


def frame_of(claimed: Claimed) -> bytes:
    """An RPC that passes a message on, as it came."""
    return encode_publish(claimed.raw.SerializeToString())
