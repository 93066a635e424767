"""The message of identify, read with bounds.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_record import MAX_RECORD
from lattica.nat.base.net.addresses import decode_multiaddr, order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import ranked
from lattica.nat.base.protobuf import parse_message
from lattica.nat.config import MAX_PATIENCE
from lattica.nat.mux.patience import NO_PATIENCE, Patience
from lattica.nat.pb import identify_pb2 as pb

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
MAX_MESSAGE = 64 * 1024
"""Bytes that are taken from a peer, of all its messages on a stream together."""
MAX_MESSAGES = 10
"""On one stream, as go-libp2p has it."""
MAX_FIRST = 4096
"""Bytes of the first message we send; rust-libp2p and litep2p take no longer one, and no second."""
MAX_ADDRS = 64
MAX_ADDRS_BYTES = 8 * 1024
"""Bytes of the addresses that are read, all together, the first first; as many as a signed record
has room for."""
_MAX_LOOKED_AT = 4 * MAX_ADDRS
"""Of more than :data:`MAX_ADDRS`, the best of so many are kept."""
MAX_TOLD_BYTES = MAX_ADDRS_BYTES - 1024
"""Bytes of the addresses we tell: with key, signature and lengths they fit a signed record."""
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
    """See :mod:`lattica.nat.base.keys.peer_record`; not opened."""
    patience: Patience = NO_PATIENCE
    """For how long it asks to be waited for when it is silent; of ours."""


def encode(message: Identify) -> bytes:
    """The message, without its length. What is empty is left out: merged, it would overwrite."""
    observed = message.observed_addr
    return pb.Identify(
        public_key=message.public_key or None,
        listen_addrs=[addr.to_bytes() for addr in message.listen_addrs],
        protocols=[name.encode() for name in message.protocols],
        observed_addr=None if observed is None else observed.to_bytes(),
        protocol_version=message.protocol_version.encode() or None,
        agent_version=message.agent_version.encode() or None,
        signed_peer_record=message.signed_record or None,
        patience=_encode_patience(message.patience),
    ).SerializeToString()


def encode_parts(message: Identify) -> tuple[bytes, ...]:
    """The message as one or two, without their lengths, that a receiver is to merge.

    The first has at most :data:`MAX_FIRST` bytes. Where not everything fits, the signed record
    goes into the second, and of the addresses those that help most people stay in the first.
    """
    whole = encode(message)
    if len(whole) <= MAX_FIRST:
        return (whole,)
    first = replace(message, listen_addrs=tuple(ranked(message.listen_addrs)), signed_record=b"")
    while len(data := encode(first)) > MAX_FIRST:
        if first.listen_addrs:
            first = replace(first, listen_addrs=first.listen_addrs[:-1])
        else:
            first = replace(first, protocols=first.protocols[:-1])
    record = encode(Identify(signed_record=message.signed_record))
    return (data, record) if message.signed_record else (data,)


def decode(data: bytes) -> Identify:
    """Read a message, without its length, or several in one piece, which are merged so.

    Left out are addresses and texts that are none, the observed address too, and what is too
    much: a peer may be newer, or merely boast.

    Raises:
        RemoteProtocolError: it is no message, or longer than :data:`MAX_MESSAGE`.
    """
    message = parse_message(pb.Identify(), data, "the identify message", limit=MAX_MESSAGE)
    record = message.signed_peer_record
    return Identify(
        public_key=message.public_key,
        listen_addrs=tuple(_best(message.listen_addrs)),
        protocols=tuple(_texts(message.protocols[:MAX_PROTOCOLS])),
        observed_addr=next(iter(_addrs([message.observed_addr])), None),
        protocol_version="".join(_texts([message.protocol_version])),
        agent_version="".join(_texts([message.agent_version]))[:MAX_AGENT],
        signed_record=record if len(record) <= MAX_RECORD else b"",
        patience=Patience(_seconds(message.patience.known), _seconds(message.patience.blind)),
    )


def _encode_patience(patience: Patience) -> pb.Patience | None:
    if patience == NO_PATIENCE:
        return None
    return pb.Patience(known=round(patience.known * 1000), blind=round(patience.blind * 1000))


def _seconds(milliseconds: int) -> float:
    return min(milliseconds / 1000, MAX_PATIENCE)


def _best(raw: Sequence[bytes]) -> list[Multiaddr]:
    addrs = list(_addrs(islice(raw, _MAX_LOOKED_AT)))
    return addrs if len(addrs) <= MAX_ADDRS else order_addresses(addrs, limit=MAX_ADDRS)


def _addrs(raw: Iterable[bytes]) -> Iterable[Multiaddr]:
    left = MAX_ADDRS_BYTES
    for data in raw:
        left -= len(data)
        if left < 0:
            return
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
