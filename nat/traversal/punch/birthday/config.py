"""Settings of the birthday method."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.traversal.punch.probe_budget import PER_ADDRESS, PER_HOUR


@dataclass(frozen=True, slots=True)
class BirthdayConfig:
    """How much is spent on a hole through an endpoint-dependent NAT.

    Of 64,512 ports the hard side has `sockets`, and the easy side tries `probes` of them: they
    miss with a probability of about exp(-sockets * probes / 64512), 0.03% by default.
    """

    enabled: bool = True
    """Use it at all (`/lattica/birthday/1`)."""
    sockets: int = 256
    """UDP sockets of the hard side, each with a port at its NAT; fewer where the limit on open
    files is near. A carrier's NAT may grant a customer no more than about 1,000 ports."""
    probes: int = 2048
    """Ports of the hard side's address that the easy side sends a datagram to, at most."""
    rate: float = 128.0
    """Datagrams a second of the easy side."""
    refresh: float = 5.0
    """Seconds after which the hard side's sockets send again: NATs forget, packets get lost."""
    timeout: float = 30.0
    """Seconds for a run, from the first message to the connection."""
    patience: float = 8.0
    """Seconds that a side waits until it knows its own NAT, which it has perhaps just met."""
    max_runs: int = 4
    """Runs at a time, with all peers together; with one peer there is one at a time. Half of
    them are for those that this node begins, unless that is all there is."""
    runs_per_hour: int = 4
    """That one peer may ask for, and as many that this node begins with one peer: a failure costs
    one side `sockets` mappings at its NAT, and an address that may be a lie `probes` datagrams."""
    total_runs_per_hour: int = 32
    """That all peers together may ask for."""
    per_address: int = PER_ADDRESS
    """Probes to one address in an hour: a peer may lie about where it is. Checks of ICE count
    too, each as much as four probes."""
    per_hour: int = PER_HOUR
    """The same for all addresses together."""

    def __post_init__(self) -> None:
        require_types(self)
        require(8 <= self.sockets <= 1024, "sockets", "8 to 1,024", self.sockets)
        require(1 <= self.probes <= 8192, "probes", "1 to 8,192", self.probes)
        require(1 <= self.rate <= 1000, "rate", "1 to 1,000 a second", self.rate)
        require_seconds("refresh", self.refresh)
        require_seconds("timeout", self.timeout)
        require_seconds("patience", self.patience)
        for name in ("max_runs", "runs_per_hour", "total_runs_per_hour", "per_address"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(
            self.per_hour >= self.per_address, "per_hour", "at least `per_address`", self.per_hour
        )
