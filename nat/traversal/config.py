"""Settings of everything that gets a node through NATs."""

from __future__ import annotations

from dataclasses import dataclass, field

from lattica.nat.base.checks import require
from lattica.nat.traversal.autonat.config import AutonatConfig
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.punch.birthday.config import BirthdayConfig
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayServerConfig


@dataclass(frozen=True, slots=True)
class TraversalConfig:
    """How a node is reached though it is behind a NAT, and how it helps others with theirs."""

    relay_only: bool = False
    """Show this node's own addresses to nobody but the relays in `relay.relays`: it listens
    nowhere, dials nobody else directly, tells others its addresses at these relays alone, and
    punches no holes. Peers are met through these relays, and through no others."""
    relay: RelayClientConfig = field(default_factory=RelayClientConfig)
    """The relays that this node uses."""
    relay_server: RelayServerConfig = field(default_factory=RelayServerConfig)
    """Being a relay for others, with a STUN responder."""
    port_mapping: PortMappingConfig = field(default_factory=PortMappingConfig)
    """Asking the router to open ports."""
    autonat: AutonatConfig = field(default_factory=AutonatConfig)
    """Learning which of its addresses others can reach."""
    paths: PathConfig = field(default_factory=PathConfig)
    """Getting from relayed paths to direct ones."""
    punch: PunchConfig = field(default_factory=PunchConfig)
    """Plain dials, connection reversal, and hole punching by TCP."""
    ice: IceConfig = field(default_factory=IceConfig)
    """Hole punching by UDP."""
    birthday: BirthdayConfig = field(default_factory=BirthdayConfig)
    """Hole punching through NATs that give each peer another port."""

    def __post_init__(self) -> None:
        if not self.relay_only:
            return
        require(
            bool(self.relay.relays and self.relay.reservations),
            "relay_only",
            "off, or relay.relays and relay.reservations set: there is no other way to this node",
            self.relay_only,
        )
        for name, is_on in (
            ("relay_server.enabled", self.relay_server.enabled),
            ("autonat.server.enabled", bool(self.autonat.server.enabled)),
        ):
            require(not is_on, name, "off with relay_only: it shows this node's address", is_on)
