"""Settings of everything that gets a node through NATs."""

from __future__ import annotations

from dataclasses import dataclass, field

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
