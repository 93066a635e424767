"""Settings of hole punching by TCP, and of connection reversal."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class PunchConfig:
    """How long and how often holes are punched, and how often peers may ask for it."""

    enabled: bool = True
    """Punch holes by TCP at all (`/libp2p/dcutr`). Plain dials and connection reversal
    (`/lattica/reverse/1`) punch nothing, and go on where this is off."""
    window: float = 4.0
    """Seconds that one round dials for: the first packet and two repetitions by the kernel."""
    retry_interval: float = 0.15
    """Seconds, about, until an address that refused is tried again, growing with each time: a
    NAT may say no to what comes before its own side has opened the hole."""
    max_tries: int = 40
    """Dials in one round, over all addresses."""
    direct_timeout: float = 6.0
    """Seconds that plain dials and connection reversal may take."""
    rounds_per_minute: int = 10
    """Of hole punching, or reversals, that one peer may ask for."""
    total_rounds_per_minute: int = 120
    """The same for all peers together."""
    max_concurrent: int = 32
    """Rounds for others that go on at a time."""
    allow_loopback: bool = False
    """Dial peers at loopback addresses too: for several nodes on one machine, in tests."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("window", "retry_interval", "direct_timeout"):
            require_seconds(name, getattr(self, name))
        for name in ("max_tries", "rounds_per_minute", "total_rounds_per_minute", "max_concurrent"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
