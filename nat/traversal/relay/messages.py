"""The messages of circuit relay v2, as values and as bytes.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. Pure.

What other implementations expect, and is not in the specification: a message says its type
even where that is zero (proto2 requires it, rust and js read it that way; go and py-libp2p may
leave a zero out, so an absent type is read as zero). Any `Limit` makes go and js treat the
connection as a limited one that applications must opt in to, so one without limits is never
sent. rust refuses a reservation without addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from google.protobuf.message import Message

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id
from lattica.nat.base.net.addresses import decode_multiaddr, order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import circuit_pb2 as pb

HOP = "/libp2p/circuit/relay/0.2.0/hop"
"""From a client to a relay: reserve, or connect to a peer that has reserved."""
STOP = "/libp2p/circuit/relay/0.2.0/stop"
"""From a relay to the peer that is connected to."""

MAX_MESSAGE = 4096
"""Bytes, without the length in front."""
MAX_RELAY_ADDRS = 16
"""Addresses of a relay that are put into, or taken from, a reservation."""
MAX_RELAY_ADDRS_BYTES = 3072
"""Of these addresses together: with a voucher they fit a message."""
_MAX_VOUCHER = 2048
MAX_TOKEN = 512
"""Bytes of a token (:mod:`lattica.nat.traversal.relay.token`)."""


class Status(IntEnum):
    """What became of a request."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """What a relay allows a circuit. None (on the wire also 0) means without limit."""

    duration_s: int | None = None
    """Seconds."""
    data: int | None = None
    """Bytes in each direction."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay."""

    expire: int
    """Unix time, seconds."""
    addrs: tuple[Multiaddr, ...] = ()
    """Of the relay, each ending in its `/p2p/ID`, without `/p2p-circuit`."""
    voucher: bytes = b""
    """See :mod:`lattica.nat.traversal.relay.voucher`; empty where the relay gives none."""
    lifetime: int | None = None
    """Seconds from the answer to the end, which only relays of ours say."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hop: asks for a reservation."""

    token: bytes = b""
    """That the relay has given to this peer; see :mod:`lattica.nat.traversal.relay.token`."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Hop: asks for a circuit to `peer`."""

    peer: PeerId
    token: bytes = b""
    """Of whoever asks, as with :class:`Reserve`."""


@dataclass(frozen=True, slots=True)
class HopStatus:
    """Hop: the relay's answer; `reservation` with an OK to :class:`Reserve` only."""

    status: Status
    reservation: Reservation | None = None
    limit: Limit | None = None
    clock: int | None = None
    """The relay's Unix time, by which tokens run out: relays of ours say it where they do not allow
    something."""


@dataclass(frozen=True, slots=True)
class StopConnect:
    """Stop: `peer` wants a circuit to whoever gets this."""

    peer: PeerId
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class StopStatus:
    """Stop: the answer to that."""

    status: Status


HopMessage: TypeAlias = Reserve | Connect | HopStatus
StopMessage: TypeAlias = StopConnect | StopStatus


# --- to bytes ---


def encode(message: HopMessage | StopMessage) -> bytes:
    """The message without its length.

    Raises:
        LocalProtocolError: it is longer than :data:`MAX_MESSAGE`, or a number does not fit.
    """
    try:
        payload = _to_protobuf(message).SerializeToString()
    except ValueError as error:
        raise LocalProtocolError(f"{message!r} cannot be encoded: {error}") from None
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"a circuit message of {len(payload)} bytes is too long")
    return payload


def _to_protobuf(message: HopMessage | StopMessage) -> Message:
    match message:
        case Reserve(token):
            return pb.HopMessage(type=pb.HopMessage.RESERVE, token=token or None)
        case Connect(peer, token):
            return pb.HopMessage(
                type=pb.HopMessage.CONNECT,
                peer=pb.Peer(id=peer.to_bytes()),
                token=token or None,
            )
        case HopStatus(status, reservation, limit, clock):
            return pb.HopMessage(
                type=pb.HopMessage.STATUS,
                status=pb.Status.Name(status),
                reservation=_reservation_to_protobuf(reservation),
                limit=_limit_to_protobuf(limit),
                clock=clock,
            )
        case StopConnect(peer, limit):
            return pb.StopMessage(
                type=pb.StopMessage.CONNECT,
                peer=pb.Peer(id=peer.to_bytes()),
                limit=_limit_to_protobuf(limit),
            )
        case StopStatus(status):
            return pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.Status.Name(status))


def _reservation_to_protobuf(reservation: Reservation | None) -> pb.Reservation | None:
    if reservation is None:
        return None
    return pb.Reservation(
        expire=reservation.expire,
        addrs=[addr.to_bytes() for addr in reservation.addrs],
        voucher=reservation.voucher or None,
        lifetime=reservation.lifetime,
    )


def _limit_to_protobuf(limit: Limit | None) -> pb.Limit | None:
    if limit is None or not (limit.duration_s or limit.data):
        return None
    return pb.Limit(duration=limit.duration_s or None, data=limit.data or None)


# --- from bytes ---


def decode_hop(data: bytes) -> HopMessage:
    """Read a hop message, without the length in front.

    Raises:
        RemoteProtocolError: it is none, or lacks what its type needs.
    """
    message = parse_message(pb.HopMessage(), data, "circuit message", limit=MAX_MESSAGE)
    match message.type:
        case pb.HopMessage.RESERVE:
            return Reserve(_token(message.token))
        case pb.HopMessage.CONNECT:
            return Connect(_peer(message.peer), _token(message.token))
        case pb.HopMessage.STATUS:
            has_reservation = message.HasField("reservation")
            return HopStatus(
                _status(message.status),
                _reservation(message.reservation) if has_reservation else None,
                _limit(message.limit) if message.HasField("limit") else None,
                message.clock if message.HasField("clock") else None,
            )
        case other:
            raise RemoteProtocolError(f"hop message of unknown type {other}")


def decode_stop(data: bytes) -> StopMessage:
    """Read a stop message, without the length in front.

    Raises:
        RemoteProtocolError: it is none, or lacks what its type needs.
    """
    message = parse_message(pb.StopMessage(), data, "circuit message", limit=MAX_MESSAGE)
    match message.type:
        case pb.StopMessage.CONNECT:
            limit = _limit(message.limit) if message.HasField("limit") else None
            return StopConnect(_peer(message.peer), limit)
        case pb.StopMessage.STATUS:
            return StopStatus(_status(message.status))
        case other:
            raise RemoteProtocolError(f"stop message of unknown type {other}")


def _peer(peer: pb.Peer) -> PeerId:
    # Its addresses are for relays that dial the target, which ours does not.
    return decode_peer_id(peer.id)


def _token(token: bytes) -> bytes:
    if len(token) > MAX_TOKEN:
        raise RemoteProtocolError(f"token of {len(token)} bytes")
    return token


def _status(number: int) -> Status:
    try:
        return Status(number)
    except ValueError:
        raise RemoteProtocolError(f"unknown circuit status {number}") from None


def _reservation(reservation: pb.Reservation) -> Reservation:
    """Addresses that cannot be read are left out: newer relays may have newer kinds."""
    if len(reservation.voucher) > _MAX_VOUCHER:
        raise RemoteProtocolError(f"voucher of {len(reservation.voucher)} bytes")
    addrs: list[Multiaddr] = []
    for data in reservation.addrs:
        try:
            addrs.append(decode_multiaddr(data))
        except RemoteProtocolError:
            continue
    if len(addrs) > MAX_RELAY_ADDRS:  # not every relay names the best first
        addrs = order_addresses(addrs, limit=MAX_RELAY_ADDRS)
    lifetime = reservation.lifetime if reservation.HasField("lifetime") else None
    return Reservation(reservation.expire, tuple(addrs), reservation.voucher, lifetime)


def _limit(limit: pb.Limit) -> Limit | None:
    if not (limit.duration or limit.data):
        return None
    return Limit(limit.duration or None, limit.data or None)
