"""Settings of a rendezvous point. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RendezvousConfig:
    """What a node that is a meeting point for others takes."""

    serve: bool = False
    """Be one."""
    min_ttl: float = 60.0
    """A registration for less is refused."""
    default_ttl: float = 7200.0
    """Of one that does not say how long."""
    max_ttl: float = 259200.0
    """A registration for more is refused."""
    registrations: int = 20_000
    """All that are kept; where there is no room, whoever has most, with its network, yields."""
    registrations_per_peer: int = 256
    memory: int = 64 * _MIB
    """Bytes that all registrations may take, a quarter of them those of a network (IPv4 /24, IPv6
    /48), a sixty-fourth those of a peer; where there is no room, the network that has most yields
    to one that has less."""
    rate_per_network: int = _MIB
    """Bytes a second that a network is answered, sixteen times as many at once; eight times both
    for all networks. A request counts as 4 KiB besides. Who wants more is told to ask later."""
    max_streams: int = 256
    """Requests that are answered at a time."""

    def __post_init__(self) -> None:
        for name in ("min_ttl", "default_ttl", "max_ttl"):
            require_seconds(name, getattr(self, name))
        require(
            self.min_ttl <= self.default_ttl <= self.max_ttl,
            "default_ttl",
            "`min_ttl` to `max_ttl`",
            self.default_ttl,
        )
        for name in ("registrations", "registrations_per_peer", "max_streams"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.memory >= _MIB, "memory", f"at least {_MIB}", self.memory)
        require(
            self.rate_per_network >= 4096,
            "rate_per_network",
            "at least 4096",
            self.rate_per_network,
        )
