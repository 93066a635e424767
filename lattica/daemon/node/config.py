"""What `lattica node` serves, and where other programs ask it: table `[node]` of the file."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from lattica.nat.base.checks import require, require_texts, require_types

SOCKET = "node.sock"
"""What the socket is called in the data directory."""
MAX_SOCKET_PATH = 107
"""Bytes of the path of a unix socket, by unix(7)."""

MAX_PORT = 65_535
MIN_TOKEN = 16
"""Bytes of the page's token."""
_ENDPOINT = re.compile(r"([^\[\]:\s]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
    """Serve the local API (docs/operating/daemon.md), if grpcio is installed."""
    socket: Path | None = None
    """Where the API listens: a unix socket that only this user can open. None: `node.sock` in
    the data directory."""

    page: str = ""
    """`HOST:PORT` of the web page that shows how the node is, such as `127.0.0.1:4080`; port 0:
    any. Empty: none. On loopback every user of this machine can read it."""
    page_token: bytes | None = None
    """What browsers have to know, in hexadecimal; needed where the page is not on loopback."""

    def __post_init__(self) -> None:
        require_types(self)
        if self.page:
            fits = _ENDPOINT.fullmatch(self.page) is not None and self.page_at[1] <= MAX_PORT
            require(fits, "page", "HOST:PORT, such as 127.0.0.1:4080", self.page)
            needs = not is_loopback(self.page_at[0])
            ok = not needs or self.page_token is not None
            fit = "an address on loopback, or node.page_token as well (of `openssl rand -hex 16`)"
            require(ok, "page", fit, self.page)
        long_enough = self.page_token is None or len(self.page_token) >= MIN_TOKEN
        require(long_enough, "page_token", f"{MIN_TOKEN} bytes or more", "fewer")
        require_texts("documents", self.documents)
        require_texts("expose", self.expose)
        require_texts("expose_to", self.expose_to)
        paths: object = self.publish
        is_paths = isinstance(paths, tuple) and all(isinstance(path, Path) for path in paths)
        require(is_paths, "publish", "a list of paths", paths)
        require(
            bool(self.api or self.socket is None), "socket", "none, for api is off", self.socket
        )

    @property
    def page_at(self) -> tuple[str, int]:
        """Host and port of the page, if there is one."""
        host, _, port = self.page.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def socket_in(self, data_dir: Path) -> Path:
        """Where the API of a node with this data directory listens."""
        return (self.socket or data_dir / SOCKET).absolute()
