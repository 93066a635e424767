"""Settings of port mapping."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require

MIN_LIFETIME_S = 20
MAX_LIFETIME_S = 7 * 86400
MIN_CHECK_S = 1


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
        require(
            MIN_LIFETIME_S <= self.lifetime_s <= MAX_LIFETIME_S,
            "lifetime_s",
            f"{MIN_LIFETIME_S} to {MAX_LIFETIME_S} seconds",
            self.lifetime_s,
        )
        require(
            MIN_CHECK_S <= self.check_s <= MAX_LIFETIME_S,
            "check_s",
            f"{MIN_CHECK_S} to {MAX_LIFETIME_S} seconds",
            self.check_s,
        )
