"""WireSpec and the commands of the forwarder, as they go over its pipe. Pure.

The forwarder reads one JSON object a line on stdin: `{"id": 7, "op": "link", …}`, and answers
each with one line on stdout: `{"id": 7, "ok": …}` or `{"id": 7, "error": "text"}`. The keys of a
command are the fields of its class here; tables are strict (`spec.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.nat import NatSpec
from tools.netlab.spec.strict import require, require_number

Direction: TypeAlias = Literal["ab", "ba", "both"]


@dataclass(frozen=True, slots=True)
class EndSpec:
    """One end of a wire: a TUN device in a namespace.

    device: its name, at most 15 bytes. netns: path of the namespace ("/proc/PID/ns/net",
    "/run/netns/NAME"); None is the forwarder's own. mtu: bytes of an IP packet.
    """

    device: str
    netns: str | None = None
    mtu: int = 1500

    def __post_init__(self) -> None:
        require(0 < len(self.device.encode()) < 16, "device", "expected 1 to 15 bytes")
        require_number(self.mtu, "mtu", low=68, high=65535)


@dataclass(frozen=True, slots=True)
class WireSpec:
    """Two TUN devices and what is between them.

    Without a NAT: a — links — b. With one, a is its inside and b its outside:
    a — NAT — links — b. A packet from a is translated, then takes the link `ab`; one from b
    takes the link `ba` and is then filtered and translated. So a mapping is made before the way
    out and the filter asked after the way in; hairpinned packets never see the link.

    name: unique in the forwarder. external: the NAT's addresses outside; internal: the hosts
    that have them, in the same order, with translate "one-to-one" only. seed: of all chance on
    this wire (losses, jitter, ports), so that a run can be repeated.
    """

    name: str
    a: EndSpec
    b: EndSpec
    ab: LinkSpec = field(default_factory=LinkSpec)
    ba: LinkSpec = field(default_factory=LinkSpec)
    nat: NatSpec | None = None
    external: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AddWire:
    """Make a wire: its devices appear, up but without addresses. Answer: null."""

    wire: WireSpec


@dataclass(frozen=True, slots=True)
class RemoveWire:
    """Remove a wire with its devices. Answer: null."""

    name: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """Change the link of one or both directions while it runs. Answer: null."""

    name: str
    link: LinkSpec
    direction: Direction = "both"


@dataclass(frozen=True, slots=True)
class SetUp:
    """Cut a wire (what is on it is lost) or mend it. The devices stay up. Answer: null."""

    name: str
    up: bool
    direction: Direction = "both"


@dataclass(frozen=True, slots=True)
class FlushNat:
    """Lose all mappings of a wire's NAT, as in a reboot. Answer: null."""

    name: str


@dataclass(frozen=True, slots=True)
class SetExternal:
    """Give a wire's NAT other external addresses; its mappings are lost. Answer: null."""

    name: str
    external: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListMappings:
    """The mappings of a wire's NAT. Answer: a list of tables (`MappingView`)."""

    name: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Answer: by name of wire, {"ab": counters, "ba": counters, "nat": drops by reason}."""


Command: TypeAlias = (
    AddWire | RemoveWire | SetLink | SetUp | FlushNat | SetExternal | ListMappings | Stats
)

COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {
        "add": AddWire,
        "remove": RemoveWire,
        "link": SetLink,
        "up": SetUp,
        "flush": FlushNat,
        "external": SetExternal,
        "mappings": ListMappings,
        "stats": Stats,
    }
)
OPERATIONS: Mapping[type[Command], str] = MappingProxyType(
    {command: op for op, command in COMMANDS.items()}
)
