"""Settings of `lattica relay`, beyond those of any node that relays (`nat.relay_server`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class OperatorServiceConfig:
    """Who is asked where `nat.relay_server.access` is `http`."""

    url: str = ""
    """Where to `POST` questions; `https://`, or `http://` on this machine or a network of yours."""
    secret: str = ""
    """Sent as a bearer token: as it is, or `env:NAME`, `file:PATH`, `command:PROGRAM ARGUMENT…`."""
    lifetime: float = 300.0
    """Seconds that an answer counts which does not say for how long itself."""
    timeout: float = 3.0
    """Seconds for an answer."""

    def __post_init__(self) -> None:
        require_types(self)
        require(
            not self.url or _is_url(self.url), "url", "a URL like https://example.org/x", self.url
        )
        require_seconds("lifetime", self.lifetime)
        require_seconds("timeout", self.timeout)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """How a relay is run."""

    database: Path | None = None
    """Where tokens, bans, accounts and the month's traffic are kept; None: `relay.sqlite` in
    `data_dir`."""
    accounts: bool = True
    """Whether it is kept what each peer has used. Without, a quota of a peer's or network's month
    begins anew with each start."""
    keep_accounts: float = 400.0
    """Days after which the account of a peer that was not seen is deleted."""
    drain: float = 30.0
    """Seconds that circuits may go on for after SIGTERM, while clients move to other relays; 0:
    none. A second signal ends them at once."""
    service: OperatorServiceConfig = field(default_factory=OperatorServiceConfig)

    def __post_init__(self) -> None:
        require_types(self)
        require(0 <= self.drain <= 86_400, "drain", "0 to 86400 seconds", self.drain)
        require(self.keep_accounts > 0, "keep_accounts", "a number of days", self.keep_accounts)

    def database_in(self, data_dir: Path) -> Path:
        """The file of a relay with this data directory."""
        return self.database or data_dir / "relay.sqlite"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
