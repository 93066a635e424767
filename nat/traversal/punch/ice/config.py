"""Settings of UDP hole punching by ICE."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds


@dataclass(frozen=True, slots=True)
class IceConfig:
    """How hard ICE tries. Times in seconds.

    enabled: punch holes by UDP at all (`/lattica/ice/1`).
    pacing: between two checks of one attempt (Ta; RFC 8445, section 14.2, wants 0.005 at least).
    first_timeout: until a check is repeated for the first time; then twice as long each time, up
        to `longest_timeout`. The RFC's 0.5 s is for strangers on slow lines; here both start at
        the same time, and a hole that opens a moment later should not have to wait.
    transmissions: of one check, at most.
    nomination_wait: how long a pair that works waits for a better one that may yet.
    patience: how long after the start an attempt with nothing left to try hopes for the peer's
        checks, which may show an address of the peer that nobody could know.
    timeout: of a whole attempt, from the first check to the chosen pair.
    max_datagrams: sent in one attempt.
    coordination_timeout: for each answer of the peer over the relayed connection.
    arrival_timeout: between the chosen pair and the QUIC connection over it, for who waits.
    max_attempts: under way at a time.
    attempts_per_minute, total_attempts_per_minute: that one peer may ask for, and all together.
    allow_loopback: use addresses of the loopback interface too: for several nodes on one machine,
        in tests.
    """

    enabled: bool = True
    pacing: float = 0.02
    first_timeout: float = 0.1
    longest_timeout: float = 0.4
    transmissions: int = 10
    nomination_wait: float = 0.1
    patience: float = 3.0
    timeout: float = 6.0
    max_datagrams: int = 400
    coordination_timeout: float = 5.0
    arrival_timeout: float = 8.0
    max_attempts: int = 16
    attempts_per_minute: int = 12
    total_attempts_per_minute: int = 120
    allow_loopback: bool = False

    def __post_init__(self) -> None:
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
