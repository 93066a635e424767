"""Settings of AutoNAT v2: whom this node serves, and how carefully it asks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from lattica.nat.base.checks import require, require_seconds, require_texts, require_types


@dataclass(frozen=True, slots=True)
class AutonatServerConfig:
    """Dialing back for others. Rates are requests per minute."""

    enabled: bool | None = None
    """None: on relays only."""
    allow_private: bool = False
    """Dial private, loopback and own addresses too, and count them as public. For labs: anybody
    who can connect could otherwise have this machine look around in its own network."""
    per_minute: int = 300
    per_minute_and_peer: int = 20
    per_minute_and_network: int = 60
    """Askers in one IPv4 /24 or IPv6 /48 together, and dials into one, each on its own."""
    per_minute_elsewhere: int = 60
    """Dials of other IP addresses than the asker's."""
    concurrent: int = 32
    """Requests under way, which bounds the sockets too."""
    concurrent_per_peer: int = 2
    dial_back_ips: tuple[str, ...] = ()
    """Addresses of this machine to dial back from, where it has several. The one that the asker
    has not talked to is taken: only that tells a NAT or firewall that filters by address from
    one that does not filter. Empty: the system chooses."""
    request_timeout: float = 10.0
    """Seconds for the request; as many again for each 30,000 bytes of dial data."""
    dial_timeout: float = 5.0
    """Seconds for the dial; the asker's time limit must be longer."""
    dial_back_timeout: float = 5.0
    """Seconds to deliver the nonce once connected."""
    dial_data_delay: float = 2.0
    """A dial of somebody else's address is put off by up to so many seconds, at random, so that
    many servers cannot be made to dial one victim at the same instant."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "per_minute",
            "per_minute_and_peer",
            "per_minute_and_network",
            "per_minute_elsewhere",
            "concurrent",
            "concurrent_per_peer",
        ):
            value = getattr(self, name)
            require(1 <= value <= 100_000, name, "1 to 100000", value)
        for name in ("request_timeout", "dial_timeout", "dial_back_timeout"):
            require_seconds(name, getattr(self, name))
        require(0 <= self.dial_data_delay <= 10, "dial_data_delay", "0 to 10", self.dial_data_delay)
        require_texts("dial_back_ips", self.dial_back_ips)
        for ip in self.dial_back_ips:
            require(_is_ip(ip), "dial_back_ips", "IP addresses of this machine", ip)


@dataclass(frozen=True, slots=True)
class AutonatClientConfig:
    """Having the own addresses checked by configured peers."""

    enabled: bool = True
    allow_private: bool = False
    """Have private and loopback addresses checked too. For labs."""
    agreement: int = 2
    """Servers that must agree on an address, or all there are where they are fewer."""
    max_addresses: int = 16
    """Addresses that are checked; what comes after them is not."""
    max_servers: int = 16
    concurrent: int = 4
    """Checks under way; each server has one at a time."""
    request_timeout: float = 40.0
    """Seconds for one check, dial data and dial included."""
    dial_back_grace: float = 5.0
    """Seconds after the answer within which the dial-back that it speaks of must be here."""
    recheck_min: float = 60.0
    """Seconds to the next check of an address whose result has changed or is not known."""
    recheck_max: float = 3600.0
    """Seconds to the next check of an address that has not changed for long; the pause doubles
    each time."""
    server_pause_min: float = 15.0
    """Seconds that a server is left alone after it has refused or failed; doubles each time."""
    server_pause_max: float = 1800.0
    distrust: float = 3600.0
    """Seconds that a server is not asked after it has claimed a dial-back that never came."""

    def __post_init__(self) -> None:
        require_types(self)
        for name, most in (
            ("agreement", 16),
            ("max_addresses", 64),
            ("max_servers", 256),
            ("concurrent", 64),
        ):
            value = getattr(self, name)
            require(1 <= value <= most, name, f"1 to {most}", value)
        for name in (
            "request_timeout",
            "dial_back_grace",
            "recheck_min",
            "recheck_max",
            "server_pause_min",
            "server_pause_max",
            "distrust",
        ):
            require_seconds(name, getattr(self, name))
        for low, high in (
            ("recheck_min", "recheck_max"),
            ("server_pause_min", "server_pause_max"),
        ):
            least, most_seconds = getattr(self, low), getattr(self, high)
            require(most_seconds >= least, high, f"at least {low} ({least})", most_seconds)


@dataclass(frozen=True, slots=True)
class AutonatConfig:
    """Both ends of AutoNAT v2."""

    server: AutonatServerConfig = field(default_factory=AutonatServerConfig)
    client: AutonatClientConfig = field(default_factory=AutonatClientConfig)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
