"""How the DHT of a node is, as users see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DhtStatus:
    """How the DHT of a node is."""

    mode: str
    """"server" or "client"."""
    peers: int
    """In the table."""
    values: int
    """That are kept for others, and their own."""
    providers: int
    """Provider records that are kept."""
    provided: int
    """Keys that this node provides."""
    announced_to: int
    """Peers that know this node's addresses."""
    storage: str
    """"disk", "memory", or why the file cannot be written."""
    network_size: float | None = None
    """Peers that serve the whole network, as this node estimates; None: it has looked up nothing
    yet."""
    network_size_error: float | None = None
    """Of that, relative, one standard deviation: 0.1 is 10% more or less; 0: they were counted."""
    providing: int = 0
    """Provides that are on their way, those that have returned among them."""
    reprovide_due: int = 0
    """Keys that are to be announced again now: the queue of the sweep."""
    reprovide_lag: float = 0.0
    """Seconds for which the first of them has waited. Peers forget what is more than a day late."""
    crowded: int = 0
    """Lookups next to whose keys peers were nearer than chance has it, so that the region around
    was looked up, too: somebody attacks a key."""
