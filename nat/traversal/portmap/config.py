"""Settings of port mapping."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_types

MIN_LIFETIME = 20
"""Seconds."""
MAX_LIFETIME = 7 * 86400
"""Seconds."""
MIN_CHECK = 1
"""Seconds."""


@dataclass(frozen=True, slots=True)
class PortMappingConfig:
    """Whether and how the router is asked to open ports for this node."""

    enabled: bool = True
    upnp: bool = True
    """UPnP Internet Gateway Device 1 and 2."""
    natpmp: bool = True
    """NAT-PMP, RFC 6886."""
    pcp: bool = True
    """PCP, RFC 6887; for IPv6, too, where it opens the firewall."""
    lifetime_s: int = 3600
    """For how long mappings are asked for; they are renewed at half of what is granted."""
    check_s: int = 60
    """How often the router is asked whether it has lost its state, for it may have restarted."""

    def __post_init__(self) -> None:
        require_types(self)
        require(
            MIN_LIFETIME <= self.lifetime_s <= MAX_LIFETIME,
            "lifetime_s",
            f"{MIN_LIFETIME} to {MAX_LIFETIME} seconds",
            self.lifetime_s,
        )
        require(
            MIN_CHECK <= self.check_s <= MAX_LIFETIME,
            "check_s",
            f"{MIN_CHECK} to {MAX_LIFETIME} seconds",
            self.check_s,
        )
