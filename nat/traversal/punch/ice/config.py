"""Settings of UDP hole punching by ICE."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class IceConfig:
    """How hard ICE tries. Times in seconds."""

    enabled: bool = True
    """Punch holes by UDP at all (`/lattica/ice/1`)."""
    pacing: float = 0.02
    """Between two checks of one attempt (Ta; RFC 8445, section 14.2, wants 0.005 at least)."""
    first_timeout: float = 0.1
    """Until a check is repeated for the first time; then twice as long each time, up to
    `longest_timeout`. The RFC's 0.5 s is for strangers on slow lines; here both start at the same
    time, and a hole that opens a moment later should not have to wait."""
    longest_timeout: float = 0.4
    transmissions: int = 10
    """Of one check, at most."""
    nomination_wait: float = 0.1
    """How long a pair that works waits for a better one that may yet."""
    patience: float = 3.0
    """How long after the start an attempt with nothing left to try hopes for the peer's checks,
    which may show an address of the peer that nobody could know."""
    timeout: float = 6.0
    """Of a whole attempt, from the first check to the chosen pair."""
    max_datagrams: int = 400
    """Sent in one attempt."""
    coordination_timeout: float = 5.0
    """For each answer of the peer over the relayed connection."""
    arrival_timeout: float = 8.0
    """Between the chosen pair and the QUIC connection over it, for who waits."""
    max_attempts: int = 16
    """Under way at a time."""
    attempts_per_minute: int = 12
    """That one peer may ask for."""
    total_attempts_per_minute: int = 120
    """That all peers together may ask for."""
    allow_loopback: bool = False
    """Use addresses of the loopback interface too: for several nodes on one machine, in tests."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.pacing >= 0.005, "pacing", "at least 0.005 seconds", self.pacing)
        for name in (
            "pacing", "first_timeout", "longest_timeout", "nomination_wait", "patience",
            "timeout", "coordination_timeout", "arrival_timeout",
        ):  # fmt: skip
            require_seconds(name, getattr(self, name))
        require(
            self.longest_timeout >= self.first_timeout,
            "longest_timeout",
            "at least first_timeout",
            self.longest_timeout,
        )
        for name in (
            "transmissions", "max_datagrams", "max_attempts",
            "attempts_per_minute", "total_attempts_per_minute",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value >= 1, name, "at least 1", value)
