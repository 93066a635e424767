"""The messages of rendezvous, as values and as bytes; each has its length in front. Pure.

Source: https://github.com/libp2p/specs/blob/master/rendezvous/README.md "Protobuf".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from lattica.dht.pb import rendezvous_pb2 as pb
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_record import MAX_RECORD
from lattica.nat.base.protobuf import decode_text, parse_message

PROTOCOL = "/rendezvous/1.0.0"
MAX_MESSAGE = 1024 * 1024
"""Bytes; what rust takes."""
MAX_NAMESPACE = 255
"""Bytes."""
MAX_COOKIE = 1024
MAX_REGISTRATIONS = 1000
"""In an answer."""
MAX_REASON = 256


class Status(IntEnum):
    """What came of a request."""

    OK = 0
    INVALID_NAMESPACE = 100
    INVALID_RECORD = 101
    INVALID_TTL = 102
    INVALID_COOKIE = 103
    NOT_AUTHORIZED = 200
    INTERNAL_ERROR = 300
    UNAVAILABLE = 400


@dataclass(frozen=True, slots=True)
class Register:
    """Be found in a namespace. Has an answer."""

    namespace: str
    record: bytes
    """The sender's peer record in its envelope."""
    ttl: int | None = None
    """Seconds; None: as long as is usual."""


@dataclass(frozen=True, slots=True)
class Unregister:
    """Be found there no more. Has no answer."""

    namespace: str


@dataclass(frozen=True, slots=True)
class Discover:
    """Who is in a namespace. Has an answer."""

    namespace: str | None
    """None: in any."""
    limit: int | None = None
    cookie: bytes = b""
    """Of the last answer: only what has come since."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to :class:`Register`."""

    status: Status
    reason: str = ""
    ttl: int = 0


@dataclass(frozen=True, slots=True)
class Discovered:
    """The answer to :class:`Discover`."""

    status: Status
    reason: str = ""
    registrations: tuple[Register, ...] = ()
    cookie: bytes = b""


Request = Register | Unregister | Discover
Response = Registered | Discovered


# --- to bytes ---


def check_namespace(namespace: object) -> str:
    """Raises LocalProtocolError for what can be none."""
    if not isinstance(namespace, str) or not namespace:
        raise LocalProtocolError(f"a namespace is a text, not {namespace!r:.100}")
    try:
        size = len(namespace.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{namespace!r:.100} cannot be a namespace") from None
    if size > MAX_NAMESPACE:
        raise LocalProtocolError(f"a namespace has at most {MAX_NAMESPACE} bytes, not {size}")
    return namespace


def encode(message: Request | Response) -> bytes:
    """The message without its length."""
    kinds = pb.Message.MessageType
    wire = pb.Message()
    if isinstance(message, Register):
        wire.type = kinds.REGISTER
        wire.register.CopyFrom(_registration(message))
    elif isinstance(message, Unregister):
        wire.type = kinds.UNREGISTER
        wire.unregister.ns = message.namespace.encode()
    elif isinstance(message, Discover):
        wire.type = kinds.DISCOVER
        wire.discover.SetInParent()
        if message.namespace is not None:
            wire.discover.ns = message.namespace.encode()
        if message.limit is not None:
            wire.discover.limit = message.limit
        if message.cookie:
            wire.discover.cookie = message.cookie
    elif isinstance(message, Registered):
        wire.type = kinds.REGISTER_RESPONSE
        wire.registerResponse.status = int(message.status)  # type: ignore[assignment]
        wire.registerResponse.statusText = message.reason.encode()
        wire.registerResponse.ttl = message.ttl
    else:
        wire.type = kinds.DISCOVER_RESPONSE
        wire.discoverResponse.status = int(message.status)  # type: ignore[assignment]
        wire.discoverResponse.statusText = message.reason.encode()
        wire.discoverResponse.cookie = message.cookie
        wire.discoverResponse.registrations.extend(map(_registration, message.registrations))
    return wire.SerializeToString()


def _registration(message: Register) -> pb.Message.Register:
    return pb.Message.Register(
        ns=message.namespace.encode(), signedPeerRecord=message.record, ttl=message.ttl
    )


# --- from bytes ---


def decode_request(data: bytes) -> Request:
    """Read what a peer asks.

    Namespaces and records over their limits are read, and refused by whoever answers.

    Raises:
        RemoteProtocolError: it is no request.
    """
    wire = parse_message(pb.Message(), data, "a rendezvous request", limit=MAX_MESSAGE)
    kinds = pb.Message.MessageType
    if wire.type == kinds.REGISTER and wire.HasField("register"):
        return _read_registration(wire.register)
    if wire.type == kinds.UNREGISTER and wire.HasField("unregister"):
        return Unregister(decode_text(wire.unregister.ns, "a namespace"))
    if wire.type == kinds.DISCOVER and wire.HasField("discover"):
        asked = wire.discover
        named = asked.HasField("ns") and asked.ns
        return Discover(
            decode_text(asked.ns, "a namespace") if named else None,
            asked.limit if asked.HasField("limit") and asked.limit else None,
            asked.cookie,
        )
    raise RemoteProtocolError("what is no rendezvous request")


def decode_response(data: bytes) -> Response:
    """Read what a rendezvous point answers.

    Raises:
        RemoteProtocolError: it is no answer, or over a limit.
    """
    wire = parse_message(pb.Message(), data, "a rendezvous response", limit=MAX_MESSAGE)
    kinds = pb.Message.MessageType
    if wire.type == kinds.REGISTER_RESPONSE and wire.HasField("registerResponse"):
        registered = wire.registerResponse
        status = _status(registered.status)
        return Registered(status, _reason(registered.statusText), registered.ttl)
    if wire.type == kinds.DISCOVER_RESPONSE and wire.HasField("discoverResponse"):
        found = wire.discoverResponse
        if len(found.registrations) > MAX_REGISTRATIONS or len(found.cookie) > MAX_COOKIE:
            raise RemoteProtocolError("a rendezvous response over its limits")
        return Discovered(
            _status(found.status),
            _reason(found.statusText),
            tuple(map(_read_registration, found.registrations)),
            found.cookie,
        )
    raise RemoteProtocolError("what is no rendezvous response")


def _read_registration(wire: pb.Message.Register) -> Register:
    if len(wire.signedPeerRecord) > MAX_RECORD:
        raise RemoteProtocolError(f"a peer record of {len(wire.signedPeerRecord)} bytes")
    return Register(
        decode_text(wire.ns, "a namespace"),
        wire.signedPeerRecord,
        wire.ttl if wire.HasField("ttl") and wire.ttl else None,
    )


def _status(number: int) -> Status:
    try:
        return Status(number)
    except ValueError:
        raise RemoteProtocolError(f"a rendezvous status of {number}") from None


def _reason(text: bytes) -> str:
    return text[:MAX_REASON].decode(errors="replace")
