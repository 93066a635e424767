"""The messages of Kademlia, as values and as bytes.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "RPC messages". Each goes
over a stream with its length in front. Pure.

What is not in the specification: rust-libp2p takes and sends 16 KiB at most, go 4 MiB. A peer may
list addresses of protocols that we do not know, so what cannot be read of a list is left out and
counted, and the rest is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from lattica.dht.kademlia.contact import Contact
from lattica.dht.pb import kad_pb2 as pb
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id
from lattica.nat.base.net.addresses import decode_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import decode_text, parse_message

MAX_MESSAGE = 128 * 1024
"""Bytes of a message from a peer, without the length in front."""
MAX_KEY = 512
"""Bytes."""
MAX_VALUE = 64 * 1024
"""Bytes of a record's value."""
MAX_PEERS = 128
"""Entries in a list of closer peers; a longer one is refused. Providers beyond it are left out."""
MAX_ADDRS = 16
"""Addresses that are taken of a peer."""
MAX_SENT_ADDRS = 8
"""Addresses that are sent of a peer: 20 peers fit what rust-libp2p takes."""
MAX_PROVIDERS = 64
"""Providers in an answer of ours; of more, a random choice."""
MAX_KEYS = 1024
"""Keys of one ADD_PROVIDERS or REMOVE_PROVIDERS."""
MAX_PROVIDER_KEY = 80
"""Bytes of a key of providers, a multihash; as go-libp2p has it."""
_MAX_AFTER = 512
_MAX_TIME = 64
_MAX_CACHED = 1024
"""Bytes of a peer's addresses up to which it is remembered as it was read."""


class MessageType(IntEnum):
    """What is asked. An answer has the type of its question."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    """Has no answer."""
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5
    ADD_PROVIDERS = 64
    """Ours: of many keys at once."""
    REMOVE_PROVIDERS = 65
    """Ours: the asker provides them no more."""


_BATCHES = (MessageType.ADD_PROVIDERS, MessageType.REMOVE_PROVIDERS)


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a key; what it means and who may write it is not decided here."""

    key: bytes
    value: bytes
    received: str = ""
    """When the peer that sends it got it, as it says (RFC 3339); empty: it does not say."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a peer is asked."""

    type: MessageType
    key: bytes = b""
    """What is looked for, 1 to :data:`MAX_KEY` bytes, in FIND_NODE a binary peer ID or anything
    else; empty in PING."""
    record: Record | None = None
    """With PUT_VALUE."""
    providers: tuple[Contact, ...] = ()
    """With ADD_PROVIDER and ADD_PROVIDERS."""
    owner: PeerId | None = None
    """Ours, with GET_VALUE: only what this peer has signed."""
    after: bytes = b""
    """Ours, with GET_VALUE: what comes behind :attr:`Response.after` of the last answer."""
    keys: tuple[bytes, ...] = ()
    """With ADD_PROVIDERS and REMOVE_PROVIDERS, at most :data:`MAX_KEYS`."""


@dataclass(frozen=True, slots=True)
class Response:
    """What it answers."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Contact, ...] = ()
    """Peers nearer to the key, as far as it says."""
    providers: tuple[Contact, ...] = ()
    after: bytes = b""
    """Ours: there is more under the key, behind this; empty: this is all."""
    done: bytes = b""
    """Ours, to ADD_PROVIDERS and REMOVE_PROVIDERS (:meth:`is_done`)."""
    junk: int = 0
    """Entries that were no peers, or held more than once; nothing of them is above."""

    def is_done(self, number: int) -> bool:
        """Whether what was asked was done of the key with this number."""
        return number // 8 < len(self.done) and bool(self.done[number // 8] >> number % 8 & 1)


# --- to bytes ---


def encode(message: Request | Response) -> bytes:
    """The message without its length.

    Raises:
        LocalProtocolError: a key, a value or the message is over its limit.
    """
    record = message.record
    payload = pb.Message(
        type=pb.Message.MessageType.Name(message.type),
        key=message.key,
        record=None if record is None else _record_to_protobuf(record),
        closerPeers=_peers(message.closer) if isinstance(message, Response) else (),
        providerPeers=_peers(message.providers),
        owner=owner.to_bytes()
        if isinstance(message, Request) and (owner := message.owner)
        else b"",
        after=message.after,
        keys=message.keys if isinstance(message, Request) else (),
        done=message.done if isinstance(message, Response) else b"",
    ).SerializeToString()
    if len(message.key) > MAX_KEY or (record is not None and len(record.value) > MAX_VALUE):
        raise LocalProtocolError(
            f"a key has at most {MAX_KEY} bytes, and a value at most {MAX_VALUE}"
        )
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"a Kademlia message of {len(payload)} bytes is too long")
    return payload


def _record_to_protobuf(record: Record) -> pb.Record:
    return pb.Record(key=record.key, value=record.value, timeReceived=record.received.encode())


def _peers(contacts: Iterable[Contact]) -> list[pb.Message.Peer]:
    return [
        pb.Message.Peer(
            id=contact.peer_id.to_bytes(),
            addrs=[addr.to_bytes() for addr in contact.addrs[:MAX_SENT_ADDRS]],
        )
        for contact in contacts
    ]


# --- from bytes ---


def decode_request(data: bytes) -> Request:
    """Read what a peer asks.

    Raises:
        RemoteProtocolError: it is no request, or over a limit.
    """
    message = parse_message(pb.Message(), data, "a Kademlia request", limit=MAX_MESSAGE)
    kind = _type(message)
    if not message.key and kind not in (MessageType.PING, *_BATCHES):
        raise RemoteProtocolError(f"{kind.name} without a key")
    record = _record(message)
    if kind is MessageType.PUT_VALUE:
        if record is None:
            raise RemoteProtocolError("PUT_VALUE without a record")
        if record.key != message.key:
            raise RemoteProtocolError("PUT_VALUE of a record that has another key")
    providers: tuple[Contact, ...] = ()
    if kind in (MessageType.ADD_PROVIDER, MessageType.ADD_PROVIDERS):
        providers, _ = _contacts(message.providerPeers)
    keys: tuple[bytes, ...] = ()
    if kind in _BATCHES:
        keys = tuple(message.keys[: MAX_KEYS + 1])
        if not 0 < len(keys) <= MAX_KEYS:
            raise RemoteProtocolError(f"{kind.name} has 1 to {MAX_KEYS} keys")
        if not all(0 < len(key) <= MAX_PROVIDER_KEY for key in keys):
            raise RemoteProtocolError(f"a key of providers has 1 to {MAX_PROVIDER_KEY} bytes")
    owner, after = None, b""
    if kind is MessageType.GET_VALUE:
        owner, after = decode_peer_id(message.owner) if message.owner else None, _after(message)
    return Request(
        kind,
        message.key,
        record if kind is MessageType.PUT_VALUE else None,
        providers,
        owner,
        after,
        keys,
    )


def decode_response(data: bytes, request: Request) -> Response:
    """Read the answer to `request`.

    Raises:
        RemoteProtocolError: it is none to that, or over a limit.
    """
    message = parse_message(pb.Message(), data, "a Kademlia response", limit=MAX_MESSAGE)
    kind = _type(message)
    if kind is not request.type:
        raise RemoteProtocolError(f"{request.type.name} was answered by {kind.name}")
    record = _record(message)
    if record is not None and record.key not in (request.key, b""):
        raise RemoteProtocolError("the answer has a record of another key")
    if len(message.closerPeers) > MAX_PEERS:
        raise RemoteProtocolError(f"{len(message.closerPeers)} closer peers in one answer")
    closer, junk = _contacts(message.closerPeers)
    providers, more = _contacts(message.providerPeers)
    if len(message.done) > MAX_KEYS // 8:
        raise RemoteProtocolError("an answer about more keys than there can be")
    return Response(
        kind,
        message.key,
        record,
        closer,
        providers,
        _after(message),
        message.done,
        junk + more,
    )


def encode_done(done: Iterable[bool]) -> bytes:
    """:attr:`Response.done` of keys in their order."""
    bits = list(done)
    number = sum(1 << index for index, is_done in enumerate(bits) if is_done)
    return number.to_bytes((len(bits) + 7) // 8, "little")


def _after(message: pb.Message) -> bytes:
    if len(message.after) > _MAX_AFTER:
        raise RemoteProtocolError(f"a place of {len(message.after)} bytes")
    return message.after


def _type(message: pb.Message) -> MessageType:
    if len(message.key) > MAX_KEY:
        raise RemoteProtocolError(f"a key of {len(message.key)} bytes")
    try:
        return MessageType(message.type)
    except ValueError:
        raise RemoteProtocolError(f"a Kademlia message of type {message.type}") from None


def _record(message: pb.Message) -> Record | None:
    if not message.HasField("record"):
        return None
    record = message.record
    if len(record.key) > MAX_KEY or len(record.value) > MAX_VALUE:
        raise RemoteProtocolError("a record over the limits")
    if len(record.timeReceived) > _MAX_TIME:
        raise RemoteProtocolError(f"a time of {len(record.timeReceived)} bytes")
    return Record(record.key, record.value, decode_text(record.timeReceived, "the time received"))


def _contacts(peers: Iterable[pb.Message.Peer]) -> tuple[tuple[Contact, ...], int]:
    """The peers of a list, the first :data:`MAX_PEERS`, and how many were none or not the first."""
    found: dict[int, Contact] = {}
    junk = 0
    for count, peer in enumerate(peers):
        if count == MAX_PEERS:
            break
        try:
            addrs = tuple(peer.addrs[:MAX_ADDRS])
            # What is larger than any honest peer's is not worth the memory.
            read = _contact if sum(map(len, addrs)) <= _MAX_CACHED else _contact.__wrapped__
            contact = read(peer.id, addrs)
        except RemoteProtocolError:
            junk += 1
            continue
        if contact.key in found:
            junk += 1
            continue
        found[contact.key] = contact
    return tuple(found.values()), junk


@lru_cache(maxsize=4096)
def _contact(raw_id: bytes, raw_addrs: tuple[bytes, ...]) -> Contact:
    """One peer of a list; many answers have the same. Raises RemoteProtocolError: it is none."""
    peer_id = decode_peer_id(raw_id)
    addrs: dict[Multiaddr, None] = {}
    for raw in raw_addrs:
        try:
            addr, named = split_peer(decode_multiaddr(raw))
        except RemoteProtocolError:
            continue  # perhaps of a protocol that others have
        if named in (None, peer_id) and addr.components:
            addrs[addr] = None
    return Contact.of(peer_id, addrs)
