"""The machines of a scenario and the links between them, as frozen dataclasses.

They form a tree. Its root is :data:`INTERNET`, a core that routes public addresses and nothing
else; routers and hosts hang below it, or below other routers (NAT behind NAT). Each node owns
the link to what it is behind: `up` is the direction away from the node.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.nat import NatSpec
from tools.netlab.spec.strict import SpecError, require
from tools.netlab.spec.workload import RELAY_LISTEN, RelayProgram

INTERNET = "internet"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?")

Backend: TypeAlias = Literal["auto", "nftables", "userspace"]


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions of a link. The default is a perfect one: a plain veth pair."""

    up: LinkSpec = field(default_factory=LinkSpec)
    """Away from the node that owns the link, towards the internet."""
    down: LinkSpec = field(default_factory=LinkSpec)

    @property
    def is_transparent(self) -> bool:
        return self.up.is_transparent and self.down.is_transparent


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs programs.

    behind: the router it is attached to, or "internet" for a public address of its own.
    link: the line to it.
    standby, standby_link: a second attachment, unused until a handover (see `fault_spec.Handover`).
    ipv4, ipv6: whether it has such addresses; IPv6 only where the scenario and the router have.
    addresses: how many IPv4 addresses it has; more than one only directly at the internet.
    """

    name: str
    behind: str = INTERNET
    link: Link = field(default_factory=Link)
    standby: str | None = None
    standby_link: Link = field(default_factory=Link)
    ipv4: bool = True
    ipv6: bool = True
    addresses: int = 1

    def __post_init__(self) -> None:
        require_name(self.name)
        require(1 <= self.addresses <= 8, "addresses", "expected 1 to 8")
        require(
            self.addresses == 1 or self.behind == INTERNET,
            "addresses",
            "only a host directly at the internet may have several",
        )
        require(self.ipv4 or self.ipv6, "ipv4", "a host needs IPv4 or IPv6")
        require(self.standby != self.behind, "standby", f"is {self.behind!r}, as `behind` is")


@dataclass(frozen=True, slots=True)
class Router:
    """A NAT or firewall with a local network behind it.

    nat: how it translates and filters.
    behind: "internet", or the router that it is itself behind (carrier-grade NAT).
    link: its uplink.
    lan: the IPv4 network inside, e.g. "192.168.1.0/24". By default one by depth: all homes have
        the same, as in life. A router that does not translate has a public network inside.
    backend: "nftables": the kernel's NAT; "userspace": the lab's own; "auto": the kernel's where
        it behaves as `nat` says.
    """

    name: str
    nat: NatSpec = field(default_factory=NatSpec)
    behind: str = INTERNET
    link: Link = field(default_factory=Link)
    lan: str | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        require_name(self.name)
        if self.lan is not None:
            _require_lan(self.lan)


@dataclass(frozen=True, slots=True)
class Relay:
    """A host at the internet that runs a relay, a program of the same name.

    listen: multiaddrs; the default has a port for networks that allow nothing but the web.
    """

    name: str
    link: Link = field(default_factory=Link)
    listen: tuple[str, ...] = RELAY_LISTEN

    def __post_init__(self) -> None:
        require_name(self.name)
        require(bool(self.listen), "listen", "expected at least one address")

    @property
    def host(self) -> Host:
        return Host(self.name, link=self.link)

    @property
    def program(self) -> RelayProgram:
        return RelayProgram(self.name, self.name, listen=self.listen)


Node: TypeAlias = Host | Router


def require_name(name: str) -> None:
    require(
        NAME.fullmatch(name) is not None,
        "name",
        f"expected up to 31 of a-z, 0-9 and '-' (not at an end), got {name!r}",
    )


def _require_lan(text: str) -> None:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise SpecError("lan", f"expected a network like 192.168.1.0/24: {error}") from None
    require(network.prefixlen <= 28, "lan", f"{text} is too small: expected a /28 or larger")
