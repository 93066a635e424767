"""The messages of `/libp2p/dcutr`, as values and as bytes.

Source: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md. Pure. What rust and go do and
the specification does not say: they ignore addresses that they cannot parse, and end the stream
(older rust nodes: the whole relayed connection) on a CONNECT without addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.net.addresses import decode_multiaddr, order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import parse_message
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.pb import dcutr_pb2 as pb

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE = 4096
"""Bytes, without the length in front."""
MAX_ADDRS = 16
"""Addresses put into a message, and looked at in one."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Where its sender can be dialed."""

    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """Dial now; its sender does so half a round trip after it has sent this."""


DcutrMessage: TypeAlias = Connect | Sync


def encode(message: DcutrMessage) -> bytes:
    """The message with its length as a varint in front.

    Raises:
        LocalProtocolError: too many or too long addresses.
    """
    if isinstance(message, Sync):
        body = pb.HolePunch(type=pb.HolePunch.SYNC)
    else:
        if len(message.addrs) > MAX_ADDRS:
            raise LocalProtocolError(f"{len(message.addrs)} addresses in a CONNECT")
        addrs = [addr.to_bytes() for addr in message.addrs]
        body = pb.HolePunch(type=pb.HolePunch.CONNECT, ObsAddrs=addrs)
    data = body.SerializeToString()
    if len(data) > MAX_MESSAGE:
        raise LocalProtocolError(f"a CONNECT of {len(data)} bytes")
    return encode_length_prefixed(data)


def decode(data: bytes) -> DcutrMessage:
    """Read a message, its length taken off.

    Of a CONNECT there are the addresses that :func:`parse_addrs` takes.

    Raises:
        RemoteProtocolError: too long, no protobuf, or of no known type.
    """
    message = parse_message(pb.HolePunch(), data, "hole punching message", limit=MAX_MESSAGE)
    # A type that is not known is like none at all (proto2).
    if not message.HasField("type"):
        raise RemoteProtocolError("a hole punching message of no known type")
    if message.type == pb.HolePunch.SYNC:
        return Sync()
    return Connect(parse_addrs(message.ObsAddrs))


def parse_addrs(encoded: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    """Those of some binary addresses that can be parsed, of more than :data:`MAX_ADDRS` the best.

    No more than four times as many are looked at.
    """
    addrs = []
    for raw in islice(encoded, 4 * MAX_ADDRS):
        try:
            addrs.append(decode_multiaddr(raw))
        except RemoteProtocolError:
            continue
    found = list(dict.fromkeys(addrs))
    if len(found) > MAX_ADDRS:
        found = order_addresses(found, limit=MAX_ADDRS)
    return tuple(found)
