"""Settings of a node's store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lattica.nat.base.checks import require, require_seconds


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where documents are kept, and how often replicas compare what they have."""

    path: Path | None = None
    """Folder of the documents' files. None: `store/` and the peer's ID in the data directory; of a
    node whose key lives as long as itself, a folder that does, too."""
    sync_interval: float = 5.0
    """Seconds, a quarter more or less, after which a document is compared with that of another
    peer that has it."""
    find_interval: float = 60.0
    """Seconds, a quarter more or less, after which a document with fewer than three such peers
    looks for more."""
    presence_interval: float = 5.0
    """Seconds after which presence is said again; others take it for gone after three."""
    max_documents: int = 256
    """Documents that are open at a time."""
    max_peers: int = 64
    """Peers with which one document is compared and to which news of it is sent."""
    max_snapshot: int = 256 * 1024 * 1024
    """Bytes of a snapshot that is taken of a peer who has pruned what is lacking here."""

    def __post_init__(self) -> None:
        for name in ("sync_interval", "find_interval", "presence_interval"):
            require_seconds(name, getattr(self, name))
        for name in ("max_documents", "max_peers", "max_snapshot"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
