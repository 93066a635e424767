"""Settings of the DHT."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lattica.dht.kademlia.config import LookupConfig, TableConfig
from lattica.dht.store.config import StoreConfig
from lattica.nat.base.checks import require, require_seconds, require_types

MODES = ("auto", "client", "server")
PROTOCOL = "/lattica/kad/1.0.0"


@dataclass(frozen=True, slots=True)
class DhtConfig:
    """What a node does in the DHT. Times in seconds."""

    enabled: bool = False
    """Whether it begins with the node. Otherwise when it is first used: by `node.dht`, or to find
    a peer of which only the ID is known."""
    mode: str = "auto"
    """"server": others may ask this node, which keeps records for them; "client": it only asks;
    "auto": a server where strangers can connect to it, or where everybody is in local networks."""
    protocol: str = PROTOCOL
    """The protocol's name: those of one name are one network."""
    store_path: Path | None = None
    """The file of records. None: in `data_dir`, for a node that has a key file; for one whose key
    lives as long as the node, memory."""
    quorum: int = 3
    """So many peers have to agree on a value that is got; where there are fewer, all."""
    value_ttl: float = 24 * 3600.0
    """How long a value is valid unless it is said."""
    republish_after: float = 3600.0
    """Values that nobody has stored anew for so long are stored anew, at who is nearest now."""
    reprovide_after: float = 22 * 3600.0
    """The same of provider records, which last for 48 hours."""
    table: TableConfig = field(default_factory=TableConfig)
    lookup: LookupConfig = field(default_factory=LookupConfig)
    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        require_types(self)
        require(self.mode in MODES, "mode", f"one of {', '.join(MODES)}", self.mode)
        require(self.protocol.startswith("/"), "protocol", "a name such as /x/1", self.protocol)
        require(self.quorum >= 1, "quorum", "at least 1", self.quorum)
        for name in ("value_ttl", "republish_after", "reprovide_after"):
            require_seconds(name, getattr(self, name))
