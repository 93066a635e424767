"""Settings of ports: limits and times."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class PortsConfig:
    """How many connections a node's ports may have, and how long things may last."""

    connect_timeout: float = 30.0
    """Seconds that a client's new connection waits for a path to the peer."""
    service_timeout: float = 10.0
    """Seconds that an exposed service has to accept a connection."""
    idle_timeout: float = 7440.0
    """Seconds without a byte either way after which a connection is aborted: by default what
    RFC 5382 asks of NATs, 2 hours and 4 minutes."""
    max_connections: int = 1024
    """Connections to exposed services at a time; and of the clients of each forward."""
    max_connections_per_peer: int = 256
    """Connections of one peer to exposed services at a time."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("connect_timeout", "service_timeout", "idle_timeout"):
            require_seconds(name, getattr(self, name))
        for name in ("max_connections", "max_connections_per_peer"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
