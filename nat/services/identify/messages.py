"""The message of identify, read with bounds.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lattica.nat.base.addresses import decode_multiaddr
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.multiaddr import Multiaddr
from lattica.nat.base.peer_record import MAX_RECORD
from lattica.nat.base.protobuf import parse_message
from lattica.nat.pb import identify_pb2 as pb

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
MAX_MESSAGE = 64 * 1024
"""Bytes."""
MAX_ADDRS = 64
MAX_PROTOCOLS = 512
MAX_AGENT = 256
"""Characters of the agent version that are kept."""


@dataclass(frozen=True, slots=True)
class Identify:
    """What a peer says of itself. What is missing is empty."""

    public_key: bytes = b""
    """In libp2p's protobuf form; the channel has proved one, this is only said."""
    listen_addrs: tuple[Multiaddr, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_addr: Multiaddr | None = None
    """Where it sees whom it says this to."""
    protocol_version: str = ""
    agent_version: str = ""
    signed_record: bytes = b""
    """See :mod:`lattica.nat.base.peer_record`; not opened."""


def encode(message: Identify) -> bytes:
    """The message, without its length."""
    observed = message.observed_addr
    return pb.Identify(
        public_key=message.public_key,
        listen_addrs=[addr.to_bytes() for addr in message.listen_addrs],
        protocols=[name.encode() for name in message.protocols],
        observed_addr=b"" if observed is None else observed.to_bytes(),
        protocol_version=message.protocol_version.encode(),
        agent_version=message.agent_version.encode(),
        signed_peer_record=message.signed_record,
    ).SerializeToString()


def decode(data: bytes) -> Identify:
    """Read a message, without its length.

    Left out are addresses and texts that are none, the observed address too, and what is too
    much: a peer may be newer, or merely boast.

    Raises:
        RemoteProtocolError: it is no message, or longer than :data:`MAX_MESSAGE`.
    """
    message = parse_message(pb.Identify(), data, "the identify message", limit=MAX_MESSAGE)
    record = message.signed_peer_record
    return Identify(
        public_key=message.public_key,
        listen_addrs=tuple(_addrs(message.listen_addrs[:MAX_ADDRS])),
        protocols=tuple(_texts(message.protocols[:MAX_PROTOCOLS])),
        observed_addr=next(iter(_addrs([message.observed_addr])), None),
        protocol_version="".join(_texts([message.protocol_version])),
        agent_version="".join(_texts([message.agent_version]))[:MAX_AGENT],
        signed_record=record if len(record) <= MAX_RECORD else b"",
    )


def _addrs(raw: Iterable[bytes]) -> Iterable[Multiaddr]:
    for data in raw:
        try:
            yield decode_multiaddr(data)
        except RemoteProtocolError:
            continue


def _texts(raw: Iterable[bytes]) -> Iterable[str]:
    for data in raw:
        try:
            yield data.decode()
        except UnicodeDecodeError:
            continue
