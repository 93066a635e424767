"""The faults of a scenario, as frozen dataclasses; `faults` does them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tools.netlab.spec.strict import require
from tools.netlab.spec.topology import Link


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The line of `node` is dead (both ends stay configured, packets are lost).

    for_s: comes up again after that; None: never.
    """

    at_s: float
    node: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """The line of `node` gets other properties; what is on its way is kept.

    for_s: then it is as before; None: it stays so.
    """

    at_s: float
    node: str
    link: Link
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class NatReboot:
    """`router` forgets all its mappings. for_s: it is off meanwhile."""

    at_s: float
    router: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class AddressChange:
    """`node` (a router, or a host at the internet) gets another public address."""

    at_s: float
    node: str


@dataclass(frozen=True, slots=True)
class Handover:
    """`host` moves to its standby attachment (and back, the next time)."""

    at_s: float
    host: str


@dataclass(frozen=True, slots=True)
class Kill:
    """`program` (or a relay) is killed with SIGKILL. for_s: then it is started anew."""

    at_s: float
    program: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """`program` is stopped with SIGSTOP for `for_s` seconds."""

    at_s: float
    program: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Partition:
    """The core drops all packets between nodes of different groups. Nodes that are in no group
    reach everybody. for_s: then it heals; None: never.
    """

    at_s: float
    groups: tuple[tuple[str, ...], ...]
    for_s: float | None = None

    def __post_init__(self) -> None:
        require(len(self.groups) >= 2, "groups", "expected at least two groups")
        seen: set[str] = set()
        for group in self.groups:
            for name in group:
                require(name not in seen, "groups", f"{name!r} is in two groups")
                seen.add(name)


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """The wall clock of `program` is off by `offset_s` seconds from now on.

    Needs a C compiler, and a program that asks the C library for the time.
    """

    at_s: float
    program: str
    offset_s: float


Fault: TypeAlias = (
    LinkDown
    | LinkChange
    | NatReboot
    | AddressChange
    | Handover
    | Kill
    | Pause
    | Partition
    | ClockSkew
)


def lasts(fault: Fault) -> float | None:
    """Seconds from its beginning to its end; None if it has none."""
    return None if isinstance(fault, AddressChange | Handover | ClockSkew) else fault.for_s


FAULTS: dict[str, type[Fault]] = {
    "link-down": LinkDown,
    "link-change": LinkChange,
    "nat-reboot": NatReboot,
    "address-change": AddressChange,
    "handover": Handover,
    "kill": Kill,
    "pause": Pause,
    "partition": Partition,
    "clock-skew": ClockSkew,
}
