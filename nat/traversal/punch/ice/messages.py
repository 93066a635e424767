"""The messages by which two peers arrange ICE over a relayed connection. Pure.

Lattica's own protocol; the fields are described in nat/pb/ice.proto.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.protobuf import decode_text, parse_message
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.pb import ice_pb2 as pb
from lattica.nat.traversal.punch.ice.agent import Credentials
from lattica.nat.traversal.punch.ice.candidates import (
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateType,
)
from lattica.nat.traversal.punch.ice.stun import fragment

ICE = "/lattica/ice/1"
MAX_MESSAGE = 4096
"""Bytes, without the length in front."""
MAX_REASON = 200
"""Characters."""

_UFRAG = re.compile("[A-Za-z0-9+/]{4,32}")
_PASSWORD = re.compile("[A-Za-z0-9+/]{22,64}")
_FOUNDATION = re.compile("[A-Za-z0-9+/]{1,32}")
_TYPES = {
    pb.Candidate.HOST: CandidateType.HOST,
    pb.Candidate.SERVER_REFLEXIVE: CandidateType.SERVER_REFLEXIVE,
    pb.Candidate.PEER_REFLEXIVE: CandidateType.PEER_REFLEXIVE,
}
_TO_TYPE = {ours: theirs for theirs, ours in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Description:
    """How to reach one side, and how it recognizes checks."""

    credentials: Credentials
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """From the opener, which is the controlling side."""

    description: Description


@dataclass(frozen=True, slots=True)
class Answer:
    """To an offer."""

    description: Description


@dataclass(frozen=True, slots=True)
class Start:
    """From the opener: begin to send checks now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """To an offer: it is no use, or too much."""

    reason: str


IceMessage: TypeAlias = Offer | Answer | Start | Refusal


def new_credentials(random_bytes: Callable[[int], bytes]) -> Credentials:
    """48 and 144 random bits, where RFC 8445 (section 5.3) wants 24 and 128 at least."""
    return Credentials(fragment(random_bytes(6)), fragment(random_bytes(18)))


# --- to bytes ---


def encode(message: IceMessage) -> bytes:
    """The message with its length as a varint in front.

    Raises:
        LocalProtocolError: it is longer than :data:`MAX_MESSAGE`, or a value does not fit.
    """
    try:
        payload = _to_protobuf(message).SerializeToString()
    except (ValueError, KeyError) as error:
        raise LocalProtocolError(f"{message!r} cannot be encoded: {error}") from None
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"an ICE message of {len(payload)} bytes is too long")
    return encode_length_prefixed(payload)


def _to_protobuf(message: IceMessage) -> pb.Message:
    match message:
        case Offer(description):
            return _description_to_protobuf(pb.Message.OFFER, description)
        case Answer(description):
            return _description_to_protobuf(pb.Message.ANSWER, description)
        case Start():
            return pb.Message(type=pb.Message.START)
        case Refusal(reason):
            return pb.Message(type=pb.Message.REFUSAL, reason=reason[:MAX_REASON].encode())


def _description_to_protobuf(type_: pb.Message.Type, description: Description) -> pb.Message:
    return pb.Message(
        type=type_,
        ufrag=description.credentials.ufrag.encode(),
        password=description.credentials.password.encode(),
        candidates=[
            pb.Candidate(
                type=_TO_TYPE[one.type],
                ip=ipaddress.ip_address(one.host).packed,
                port=one.port,
                priority=one.priority,
                foundation=one.foundation.encode(),
            )
            for one in description.candidates
        ],
    )


# --- from bytes ---


def decode(data: bytes) -> IceMessage:
    """Read a message, without the length in front.

    Raises:
        RemoteProtocolError: it is none, or has values that ICE does not allow.
    """
    message = parse_message(pb.Message(), data, "ICE message", limit=MAX_MESSAGE)
    match message.type:
        case pb.Message.OFFER:
            return Offer(_description(message))
        case pb.Message.ANSWER:
            return Answer(_description(message))
        case pb.Message.START:
            return Start()
        case pb.Message.REFUSAL:
            text = decode_text(message.reason, "the reason of an ICE refusal")[:MAX_REASON]
            reason = "".join(c for c in text if c.isprintable())
            return Refusal(reason or "no reason given")
        case other:
            raise RemoteProtocolError(f"ICE message of unknown type {other}")


def _description(message: pb.Message) -> Description:
    ufrag = decode_text(message.ufrag, "an ICE ufrag")
    password = decode_text(message.password, "an ICE password")
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise RemoteProtocolError("ICE credentials that RFC 8445 does not allow")
    credentials = Credentials(ufrag, password)
    return Description(credentials, _candidates(message.candidates[:MAX_REMOTE_CANDIDATES]))


def _candidates(claims: Sequence[pb.Candidate]) -> tuple[Candidate, ...]:
    """The first 16; those of a type that nobody knows yet are left out."""
    found = []
    for claim in claims:
        type_ = _TYPES.get(claim.type)
        if type_ is None:
            continue
        foundation = decode_text(claim.foundation, "an ICE foundation")
        if (
            len(claim.ip) not in (4, 16)
            or not 0 < claim.port < 1 << 16
            or not 0 < claim.priority < 1 << 31
            or not _FOUNDATION.fullmatch(foundation)
        ):
            raise RemoteProtocolError("an ICE candidate that RFC 8445 does not allow")
        host = str(ipaddress.ip_address(claim.ip))
        found.append(Candidate(type_, host, claim.port, claim.priority, foundation))
    return tuple(found)
