"""What one replica's log stands."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What one replica stands. Raises :class:`~lattica.errors.ConfigError`."""

    max_authors: int = 100_000
    """Session keys whose entries are taken."""
    max_future: float = 60.0
    """Seconds that an entry may be ahead of the clock here; beyond, it waits."""
    author_rate: float = 1024.0 * 1024.0
    """Bytes a second of one author, once the burst is used up."""
    author_burst: float = 64.0 * 1024.0 * 1024.0
    """Bytes of one author at once."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.max_authors >= 1, "max_authors", "a positive number", self.max_authors)
        require_seconds("max_future", self.max_future)
        require(self.author_rate > 0, "author_rate", "a positive number", self.author_rate)
        require(self.author_burst > 0, "author_burst", "a positive number", self.author_burst)
