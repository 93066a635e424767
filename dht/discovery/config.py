"""Settings of discovery. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.nat.base.checks import require, require_texts


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Where peers of a topic are looked for, besides those that are connected."""

    rendezvous: tuple[str, ...] = ()
    """Multiaddrs of rendezvous points, with `/p2p/ID`, at which this node registers and asks."""
    mdns: bool | None = None
    """Answer, and ask, on the local network (multicast DNS). None: where the program asks for it,
    as those do that are written for the original lattica; false: not even there."""
    mdns_interfaces: tuple[str, ...] = ()
    """Interfaces on which to do so, by name or address. Empty: all."""
    mdns_port: int = 5353
    point: RendezvousConfig = field(default_factory=RendezvousConfig)

    def __post_init__(self) -> None:
        require_texts("rendezvous", self.rendezvous)
        require_texts("mdns_interfaces", self.mdns_interfaces)
        require(0 < self.mdns_port < 65536, "mdns_port", "1 to 65535", self.mdns_port)
