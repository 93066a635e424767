"""The messages of connection reversal, `/lattica/reverse/1`, as values and as bytes. Pure.

One :class:`Request`, one :class:`Answer`, each with its length in front, on a stream of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.protobuf import decode_text, parse_message
from lattica.nat.pb import reverse_pb2 as pb
from lattica.nat.traversal.punch.dcutr.messages import MAX_ADDRS, MAX_MESSAGE, parse_addrs

REVERSE = "/lattica/reverse/1"
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Request:
    """ "Dial me at one of these": at most 16 addresses, the best first."""

    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    connected: bool
    error: str = ""
    """Why not, for a person."""


def encode(message: Request | Answer) -> bytes:
    """The message without its length.

    Raises:
        LocalProtocolError: too many or too long addresses.
    """
    body: pb.Request | pb.Answer
    if isinstance(message, Request):
        body = pb.Request(addrs=[addr.to_bytes() for addr in message.addrs])
        if len(message.addrs) > MAX_ADDRS or body.ByteSize() > MAX_MESSAGE:
            raise LocalProtocolError("too many addresses for one request")
    else:
        body = pb.Answer(connected=message.connected, error=message.error[:_MAX_REASON].encode())
    return body.SerializeToString()


def decode_request(data: bytes) -> Request:
    """Read a request, its length taken off; addresses that cannot be parsed are left out.

    Raises:
        RemoteProtocolError: too long, or no protobuf.
    """
    message = parse_message(pb.Request(), data, "reversal message", limit=MAX_MESSAGE)
    return Request(parse_addrs(message.addrs))


def decode_answer(data: bytes) -> Answer:
    """Read an answer, its length taken off.

    Raises:
        RemoteProtocolError: too long, no protobuf, or it does not say whether it worked.
    """
    message = parse_message(pb.Answer(), data, "reversal message", limit=MAX_MESSAGE)
    if not message.HasField("connected"):
        raise RemoteProtocolError("an answer that does not say what came of it")
    text = decode_text(message.error, "the error of a reversal")[:_MAX_REASON]
    reason = "".join(c if c.isprintable() else "?" for c in text)
    return Answer(message.connected, reason)
