"""What all methods of port mapping have in common, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.ip import CARRIER_NAT, IpAddress, is_public_host


class Method(Enum):
    """How a router is asked; the best first."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


class Transport(IntEnum):
    """The protocol whose port is mapped, with its IP protocol number."""

    UDP = 17
    TCP = 6


class Reason(Enum):
    """Why a method did not do what it was asked; the value is what a person reads."""

    NO_GATEWAY = "this machine has no default gateway"
    NOT_NEEDED = "this machine has a public address itself"
    NO_ANSWER = "the gateway does not answer"
    PORT_CLOSED = "nothing listens at the gateway"
    UNSUPPORTED_VERSION = "the gateway speaks another version"
    UNSUPPORTED = "the gateway cannot do this"
    NOT_AUTHORIZED = "the gateway refuses: not allowed"
    CONFLICT = "the port is taken by another host"
    OUT_OF_RESOURCES = "the gateway has no more room for mappings"
    NETWORK_FAILURE = "the gateway has no public address (it is offline, or itself behind a NAT)"
    ADDRESS_MISMATCH = "there is another NAT between this machine and the gateway"
    MALFORMED = "the gateway sent something that is not allowed"
    UNREACHABLE = "the gateway cannot be reached"
    REFUSED = "the gateway refuses"


PASSING = frozenset(
    {
        Reason.NO_ANSWER,
        Reason.NETWORK_FAILURE,
        Reason.OUT_OF_RESOURCES,
        Reason.UNREACHABLE,
        Reason.MALFORMED,
    }
)
"""Reasons that say nothing about whether an existing mapping still stands."""


class PortMappingError(LatticaError):
    """A method failed. `retry_after_s` is the gateway's advice, or None."""

    def __init__(
        self, reason: Reason, detail: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of this machine that should be reachable from outside."""

    transport: Transport
    number: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a gateway has given. `lifetime_s` is None for "until it restarts"."""

    external_ip: IpAddress
    external_port: int
    lifetime_s: float | None


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping that stands, as far as is known."""

    port: Port
    method: Method
    external_ip: IpAddress
    external_port: int
    useless: str | None = None
    """Why nobody outside can use it, or None."""


def name_of(codes: type[IntEnum], result: int) -> str:
    """What a protocol calls a result code, for a message."""
    try:
        return codes(result).name
    except ValueError:
        return f"result {result}"


def why_useless(external_ip: IpAddress) -> str | None:
    """Why an external address cannot be reached from the internet; None if it can."""
    if external_ip.is_unspecified:
        return "the gateway has no address outside: it is not connected to the internet"
    if is_public_host(external_ip):
        return None
    if external_ip.version == 6:
        return f"the address outside, {external_ip}, is not a public one"
    if external_ip in CARRIER_NAT:
        return (
            f"the gateway's own address outside, {external_ip}, is shared by customers of the "
            "provider (carrier-grade NAT)"
        )
    return (
        f"the gateway's own address outside, {external_ip}, is not public: it is itself behind "
        "a NAT (double NAT)"
    )
