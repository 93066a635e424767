"""What the router wants done."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.dht.topics.signing import Message
from lattica.nat.base.keys.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Send:
    """An RPC of subscriptions or control messages, which must not be lost while the peer is
    there."""

    peer_id: PeerId
    rpc: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """An RPC with one message, which may be left out where there is no room, unless it is `own`."""

    peer_ids: tuple[PeerId, ...]
    rpc: bytes
    own: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message for those who have subscribed here."""

    message: Message


@dataclass(frozen=True, slots=True)
class Validate:
    """A message that waits for :meth:`Router.validated`."""

    message: Message
    id: bytes


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A connected peer has subscribed to a topic."""

    topic: str
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """A peer is not subscribed to a topic any more, or not connected."""

    topic: str
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class Connect:
    """Others have named this peer of a topic; its signed record is empty where they have none."""

    peer_id: PeerId
    record: bytes
    teller: PeerId


Action = Send | Forward | Deliver | Validate | Subscribed | Unsubscribed | Connect
