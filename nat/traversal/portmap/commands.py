"""What goes in and out of the port mapper: commands, news, and the state of the methods."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.portmap.mapping import Mapping, Method, Port, Reason

# --- commands ---


@dataclass(frozen=True, slots=True)
class Search:
    """Find out whether the method works here; answer: `found` or `failed`."""

    method: Method
    generation: int


@dataclass(frozen=True, slots=True)
class Request:
    """Make or renew a mapping; answer: `granted` or `failed`."""

    method: Method
    generation: int
    port: Port
    wished_port: int
    """The external port that would be best; any other will do."""
    wished_ip: IpAddress | None
    """The external address that it had, or None."""
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Check:
    """Find out whether the router still has its state; answer: `checked` or `failed`."""

    method: Method
    generation: int
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """End a mapping; no answer is wanted. `external_port` is where it is, or may be."""

    method: Method
    port: Port
    external_port: int


Command: TypeAlias = Search | Request | Check


# --- news ---


@dataclass(frozen=True, slots=True)
class Mapped:
    """A port is mapped, or another way than before."""

    mapping: Mapping


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A mapping is no more."""

    mapping: Mapping
    why: str


PortEvent: TypeAlias = Mapped | Unmapped


# --- state as others see it ---


class MethodState(Enum):
    DISABLED = "disabled"
    SEARCHING = "searching"
    FOUND = "found"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class MethodStatus:
    """Of one method. `reason` and `detail`: why it is absent, or what it refused last."""

    method: Method
    state: MethodState
    reason: Reason | None = None
    detail: str = ""
