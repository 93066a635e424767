"""What a relay gives away: to the peers on its allow-list, and to strangers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.identity import parse_peer_id
from lattica.nat.config import MIB
from lattica.nat.traversal.relay.messages import Limit
from lattica.nat.traversal.relay.server.quotas import Quotas

ACCESS_MODES = ("everyone", "allow", "deny", "token", "http")
"""Who may be served by a relay."""


@dataclass(frozen=True, slots=True)
class CircuitLimits:
    """What one circuit may use; 0 means without limit."""

    duration: float = 0.0
    """Seconds."""
    data: int = 0
    """Bytes in each direction."""
    rate: int = 0
    """Bytes a second in each direction; what is faster is slowed down, and nothing is lost."""
    per_peer: int = 256
    """Circuits of one peer, whichever end of them it is."""

    def __post_init__(self) -> None:
        require_types(self)
        # A circuit message has 32 bits for the seconds, and 64 for the bytes.
        require(
            self.duration == 0 or 1 <= self.duration < 2**32,
            "duration",
            "0 (no limit), or a number of seconds from 1 to 2**32",
            self.duration,
        )
        require(0 <= self.data < 2**63, "data", "0 (no limit) or a number of bytes", self.data)
        require(self.rate >= 0, "rate", "0 (no limit) or bytes a second", self.rate)
        require(self.per_peer >= 1, "per_peer", "at least 1", self.per_peer)

    @property
    def advertised(self) -> Limit | None:
        """As peers are told; the rate is not theirs to know. None: nothing to tell."""
        if not (self.duration or self.data):
            return None
        return Limit(math.floor(self.duration) or None, self.data or None)


@dataclass(frozen=True, slots=True)
class StrangerLimits(CircuitLimits):
    """Enough to find a direct path, and for small calls until there is one."""

    duration: float = 120.0
    data: int = 16 * MIB
    rate: int = 1 * MIB
    per_peer: int = 16


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Everything a relay can be told but whom it knows.

    A circuit is an allowed one if both its ends are on the allow-list. What is counted by IP
    address or network is for strangers: there can be as many allowed peers behind one NAT as
    there are on the list.
    """

    open_to_strangers: bool = False
    """Serve peers that are not on the allow-list, too."""
    reservation_lifetime: float = 3600.0
    """Seconds; clients renew before that."""
    max_reservations: int = 1024
    """Of strangers. A peer has one, which it can renew; allowed peers always get theirs."""
    reservations_per_ip: int = 8
    reservations_per_network: int = 32
    """In one IPv4 /24 or one IPv6 /48."""
    max_circuits: int = 4096
    """Of everybody together."""
    max_strangers_circuits: int | None = None
    """How many of them may be of strangers, so that there is always room for circuits between
    allowed peers. None: three quarters."""
    circuits_per_network: int = 128
    """Made from one IPv4 /24 or one IPv6 /48."""
    strangers_rate: int = 16 * MIB
    """Bytes a second for all circuits of strangers together, both directions; 0: no limit."""
    for_allowed: CircuitLimits = field(default_factory=CircuitLimits)
    """By default without limit: model weights go through whole."""
    for_strangers: StrangerLimits = field(default_factory=StrangerLimits)

    def __post_init__(self) -> None:
        require_types(self)
        require_seconds("reservation_lifetime", self.reservation_lifetime)
        require(
            10 <= self.reservation_lifetime < 2**31,
            "reservation_lifetime",
            "at least 10 seconds",
            self.reservation_lifetime,
        )
        for name in (
            "max_reservations",
            "reservations_per_ip",
            "reservations_per_network",
            "max_circuits",
            "circuits_per_network",
        ):
            value = getattr(self, name)
            require(value >= 1, name, "at least 1", value)
        share = self.max_strangers_circuits
        require(
            share is None or 1 <= share <= self.max_circuits,
            "max_strangers_circuits",
            f"1 to max_circuits ({self.max_circuits})",
            share,
        )
        require(
            self.strangers_rate >= 0,
            "strangers_rate",
            "0 (no limit) or bytes a second",
            self.strangers_rate,
        )

    @property
    def strangers_circuits(self) -> int:
        """How many circuits there may be of strangers."""
        share = self.max_strangers_circuits
        return max(1, self.max_circuits * 3 // 4) if share is None else share


def _is_peer_id(text: str) -> bool:
    try:
        parse_peer_id(text)
    except AddressError:
        return False
    return True


_DOCUMENT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RelayServerConfig:
    """Whether and for whom a node is a relay."""

    enabled: bool = False
    access: str | None = None
    """Who is served: `everyone`, within the limits of strangers; `allow`, those on the allow-list;
    `deny`, everybody but the deny-list; `token`, those with a token of this relay; `http`, those
    of whom the operator's own service says so. None: `allow`, or `everyone` where
    `limits.open_to_strangers` is set. The last two are `lattica relay`'s; with these
    `open_to_strangers` serves others as strangers."""
    allow_peers: tuple[str, ...] = ()
    """Peer IDs, which are served whatever the mode. Circuits between two of them have the limits of
    `limits.for_allowed`."""
    allow_documents: tuple[str, ...] = ()
    """IDs of documents, 64 hexadecimal digits: as long as this node has one open, its owners and
    whoever has a right in it are served as if they were in `allow_peers`. Not for `lattica relay`,
    which opens none."""
    deny_peers: tuple[str, ...] = ()
    """Peer IDs that are not served, whatever the mode."""
    limits: RelayLimits = field(default_factory=RelayLimits)
    quotas: Quotas = field(default_factory=Quotas)

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("allow_peers", "deny_peers"):
            for text in getattr(self, name):
                require(_is_peer_id(text), name, "peer IDs like 12D3KooW…", text)
        for text in self.allow_documents:
            is_id = _DOCUMENT.fullmatch(text) is not None
            require(is_id, "allow_documents", "IDs of 64 hexadecimal digits", text)
        both = {*self.allow_peers} & {*self.deny_peers}
        require(not both, "deny_peers", "none of allow_peers", ", ".join(sorted(both)))
        require(
            self.access is None or self.access in ACCESS_MODES,
            "access",
            f"one of {', '.join(ACCESS_MODES)}",
            self.access,
        )
        is_open = self.limits.open_to_strangers
        require(
            not (self.access == "allow" and is_open),
            "access",
            "everyone, or limits.open_to_strangers unset: with both, it is not said who is served",
            self.access,
        )

    @property
    def serves_nobody(self) -> bool:
        """There is an allow-list, with nobody on it."""
        return self.mode == "allow" and not (self.allow_peers or self.allow_documents)

    @property
    def mode(self) -> str:
        """The mode of access that is in force."""
        if self.access is not None:
            return self.access
        return "everyone" if self.limits.open_to_strangers else "allow"

    @property
    def serves_strangers(self) -> bool:
        """Whoever is not on a list is served."""
        return self.mode in ("everyone", "deny") or self.limits.open_to_strangers
