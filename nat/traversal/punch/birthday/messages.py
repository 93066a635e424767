"""What two peers tell each other for the birthday method, `/lattica/birthday/1`.

Each message is a protobuf of `lattica/nat/pb/birthday.proto` with its length before it. The side
that opens the stream says hello and gets a hello or a refusal; both now know which of them is
hard. The hard side says that it is ready, and later that it has been met. The end of the stream
ends the run.

Pure. What a peer may send wrong raises :class:`~lattica.errors.RemoteProtocolError`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, TypeAlias

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.protobuf import decode_text, parse_message
from lattica.nat.pb import birthday_pb2 as pb
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport

PROTOCOL = "/lattica/birthday/1"
MAX_MESSAGE: Final = 1024
"""Bytes, without the length before it."""
TOKEN_SIZE: Final = 16
MAX_MAPPED: Final = 8
_MAX_REASON: Final = 200

_BEHAVIOURS: Final = {
    Behaviour.ENDPOINT_INDEPENDENT: pb.Hello.ENDPOINT_INDEPENDENT,
    Behaviour.ADDRESS_DEPENDENT: pb.Hello.ADDRESS_DEPENDENT,
    Behaviour.ADDRESS_AND_PORT_DEPENDENT: pb.Hello.ADDRESS_AND_PORT_DEPENDENT,
}
_FROM_WIRE: Final = {number: behaviour for behaviour, number in _BEHAVIOURS.items()}


@dataclass(frozen=True, slots=True)
class Hello:
    """How a peer's NAT behaves, and where STUN responders see it (IPv4 host and port).

    Raises nothing: who makes one sees to it that `token` has :data:`TOKEN_SIZE` bytes.
    """

    token: bytes
    mapping: Behaviour | None = None
    filtering: Behaviour | None = None
    mapped: tuple[tuple[str, int], ...] = ()

    @property
    def is_hard(self) -> bool:
        """As :attr:`NatReport.is_hard`."""
        return self.mapping not in (None, Behaviour.ENDPOINT_INDEPENDENT)

    @property
    def hosts(self) -> frozenset[str]:
        """Its public addresses."""
        return frozenset(host for host, _ in self.mapped)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No run, and why."""

    reason: str
    temporary: bool = False
    """Whether it may work another time."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The hard side has this many sockets open; probes may come."""

    sockets: int


@dataclass(frozen=True, slots=True)
class Met:
    """The hard side has got a probe from this port of the easy side, and dials."""

    port: int


Message: TypeAlias = Hello | Refusal | Ready | Met


def hello(token: bytes, report: NatReport) -> Hello:
    """What a node says of itself; addresses that are not IPv4 are left out."""
    mapped = [(str(address[0]), address[1]) for address in report.mapped if _is_ipv4(address[0])]
    # The latest are those that tell most about the next.
    return Hello(token, report.mapping, report.filtering, tuple(mapped[-MAX_MAPPED:]))


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def encode(message: Message) -> bytes:
    """The message without its length."""
    body = pb.Birthday()
    match message:
        case Hello():
            body.hello.token = message.token
            body.hello.mapping = _to_wire(message.mapping)
            body.hello.filtering = _to_wire(message.filtering)
            for host, port in message.mapped:
                body.hello.mapped.add(ip=ipaddress.IPv4Address(host).packed, port=port)
        case Refusal():
            body.refusal.reason = message.reason[:_MAX_REASON].encode()
            body.refusal.temporary = message.temporary
        case Ready():
            body.ready.sockets = message.sockets
        case Met():
            body.met.port = message.port
    return body.SerializeToString()


def _to_wire(behaviour: Behaviour | None) -> pb.Hello.Behaviour:
    return pb.Hello.UNKNOWN if behaviour is None else _BEHAVIOURS[behaviour]


def decode(data: bytes) -> Message:
    """Read a message, without the length before it.

    Raises:
        RemoteProtocolError: it is none, or says what cannot be.
    """
    body = parse_message(pb.Birthday(), data, "birthday message", limit=MAX_MESSAGE)
    match body.WhichOneof("body"):
        case "hello":
            return _decode_hello(body.hello)
        case "refusal":
            reason = decode_text(body.refusal.reason, "the reason of a birthday refusal")
            return Refusal(_printable(reason), body.refusal.temporary)
        case "ready":
            if not 1 <= body.ready.sockets <= 65535:
                raise RemoteProtocolError(f"birthday: ready with {body.ready.sockets} sockets")
            return Ready(body.ready.sockets)
        case "met":
            return Met(_port(body.met.port))
        case _:
            raise RemoteProtocolError("birthday message without content")


def _decode_hello(body: pb.Hello) -> Hello:
    if len(body.token) != TOKEN_SIZE:
        raise RemoteProtocolError(f"birthday token of {len(body.token)} bytes")
    if len(body.mapped) > MAX_MAPPED:
        raise RemoteProtocolError(f"birthday: {len(body.mapped)} mapped addresses")
    mapped: list[tuple[str, int]] = []
    for endpoint in body.mapped:
        if len(endpoint.ip) != 4:
            raise RemoteProtocolError(f"birthday: IPv4 address of {len(endpoint.ip)} bytes")
        mapped.append((str(ipaddress.IPv4Address(endpoint.ip)), _port(endpoint.port)))
    # A behaviour that nobody knows yet is an unknown one.
    return Hello(
        token=body.token,
        mapping=_FROM_WIRE.get(body.mapping),
        filtering=_FROM_WIRE.get(body.filtering),
        mapped=tuple(mapped),
    )


def _port(number: int) -> int:
    if not 1 <= number <= 65535:
        raise RemoteProtocolError(f"birthday: port {number}")
    return number


def _printable(text: str) -> str:
    """A peer's words, made fit for a log and a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_REASON])
