"""Settings of the store: how much a node keeps for others, and of one of them."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Quotas. Where all is full, whoever has most yields to those who have less."""

    values_memory: int = 64 * _MIB
    """Bytes of values in all, with 512 for each beside its content."""
    values_per_publisher: int = 2 * _MIB
    """The same of one publisher."""
    values_per_network: int = 16 * _MIB
    """The same of one network (IPv4 /24, IPv6 /48) of the internet."""
    content_memory: int = 4 * _MIB
    """Bytes of content that anybody may store, in all."""
    content_per_publisher: int = 64 * _KIB
    """The same of one publisher."""
    providers: int = 200_000
    """Provider records in all."""
    providers_per_publisher: int = 50_000
    """The same of one peer."""
    providers_per_network: int = 100_000
    """The same of one network of the internet."""
    providers_per_key: int = 1024
    """Peers that provide one thing."""
    provider_ttl: float = 48 * 3600.0
    """Seconds that a provider record is kept, unless it is repeated."""
    max_ttl: float = 30 * 24 * 3600.0
    """Seconds that a value is kept at most, however far in the future it says that it expires."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "values_memory",
            "values_per_publisher",
            "values_per_network",
            "content_memory",
            "content_per_publisher",
            "providers",
            "providers_per_publisher",
            "providers_per_network",
            "providers_per_key",
        ):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require_seconds("provider_ttl", self.provider_ttl)
        require_seconds("max_ttl", self.max_ttl)
