"""What `lattica node` serves, and where other programs ask it: table `[node]` of the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lattica.nat.base.checks import require, require_texts, require_types

SOCKET = "node.sock"
"""What the socket is called in the data directory."""
MAX_SOCKET_PATH = 107
"""Bytes of the path of a unix socket, by unix(7)."""


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """A node that runs all the time."""

    publish: tuple[Path, ...] = ()
    """Files and directories that it serves from its start on."""
    documents: tuple[str, ...] = ()
    """CRDT documents that it opens and replicates, by ID or name."""
    expose: tuple[str, ...] = ()
    """TCP services of this machine that peers may connect to: `[NAME=]PORT` as of
    `lattica expose`."""
    expose_to: tuple[str, ...] = ()
    """IDs of the peers that may connect to them. Empty: whoever has the key of the port, which is
    logged when it starts."""
    api: bool = True
    """Serve the local API (docs/daemon.md), if grpcio is installed."""
    socket: Path | None = None
    """Where the API listens: a unix socket that only this user can open. None: `node.sock` in
    the data directory."""

    def __post_init__(self) -> None:
        require_types(self)
        require_texts("documents", self.documents)
        require_texts("expose", self.expose)
        require_texts("expose_to", self.expose_to)
        paths: object = self.publish
        is_paths = isinstance(paths, tuple) and all(isinstance(path, Path) for path in paths)
        require(is_paths, "publish", "a list of paths", paths)
        require(
            bool(self.api or self.socket is None), "socket", "none, for api is off", self.socket
        )

    def socket_in(self, data_dir: Path) -> Path:
        """Where the API of a node with this data directory listens."""
        return (self.socket or data_dir / SOCKET).absolute()
