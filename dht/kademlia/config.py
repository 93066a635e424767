"""Settings of the table and of lookups."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lattica.nat.base.checks import require, require_seconds, require_types


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Whom a node knows, and for how long without news. Times in seconds."""

    bucket: int = 20
    """Peers of one bucket (k)."""
    spares: int = 20
    """Peers that have answered and take the place of one that is lost, of each bucket."""
    group_in_bucket: int = 2
    """Peers of one network (IPv4 /24, IPv6 /48) in a bucket."""
    group_in_table: int = 3
    """The same of the whole table."""
    max_failures: int = 3
    """A peer that fails so often in a row is forgotten. After the first time it is told to nobody
    until it has answered."""
    check_after: float = 600.0
    """A peer that was silent for so long is asked whether it is there."""
    refresh_after: float = 600.0
    """A bucket in which nothing was looked up for so long is looked up."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("bucket", "group_in_bucket", "group_in_table", "max_failures"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.spares >= 0, "spares", "at least 0", self.spares)
        require_seconds("check_after", self.check_after)
        require_seconds("refresh_after", self.refresh_after)


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """How a key is looked up. Times in seconds."""

    count: int = 20
    """Peers that are looked for (k)."""
    paths: int = 3
    """Disjoint paths, each with one question at a time (α): a peer is asked on one of them, and
    what it says leads only that one."""
    near: int = 1
    """As soon as so many nearest peers have answered, all others of the nearest are asked at once
    (β of libp2p's resiliency parameter)."""
    spare: int = 5
    """So many more than are looked for are asked then, in place of those that are gone."""
    eager: int = 5
    """Peers that are likely among the nearest, by the size of the network, are asked at once, too;
    of whom one peer alone has told, only so many until some of them answer."""
    patience: float = 0.5
    """A path goes on when an answer has not come in so long; it is used when it does come."""
    last_patience: float = 1.0
    """The same for those that are asked at once: whoever is waited for no longer is not found."""
    few: int = 4
    """When no more of the nearest than these are waited for, they have less time."""
    few_patience: float = 0.6
    """Seconds for these."""
    nearest: int = 3
    """Of the nearest, so many are waited for longer, if more than one peer has told of them."""
    nearest_patience: float = 2.0
    """Seconds for these."""
    timeout: float = 10.0
    """A question that is not answered in this time has failed: several round trips over a bad link,
    and the connection, too."""
    distrust_after: int = 1
    """How many more of the peers that somebody told of fail than answer, when the others that
    nobody else told of are left for the end: asked if `count` are not found without them."""
    group_in_answer: int = 3
    """Peers of one network in an answer; an honest table has no more."""
    max_queries: int = 256
    """Peers that are asked in all."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "count",
            "paths",
            "near",
            "eager",
            "nearest",
            "distrust_after",
            "group_in_answer",
            "max_queries",
        ):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.near <= self.count, "near", "at most `count`", self.near)
        for name in ("spare", "few"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("patience", "last_patience", "few_patience", "nearest_patience", "timeout"):
            require_seconds(name, getattr(self, name))

    def patient(self) -> LookupConfig:
        """For lookups that nobody waits for: fewer of the nearest are missed."""
        longest = max(self.last_patience, self.nearest_patience)
        return replace(self, few=0, last_patience=longest)
