"""Settings of the relay client: where this node can be reached through others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from lattica.nat.base.checks import require, require_seconds, require_texts, require_types
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.token import open_token, parse_token

MAX_RELAYS = 64
"""Relays that are looked at, from whatever source."""


@dataclass(frozen=True, slots=True)
class RelayClientConfig:
    """Relays this node reserves at, and how. Times in seconds.

    Raises :class:`~lattica.nat.base.checks.FieldError` for values out of range.
    """

    relays: tuple[str, ...] = ()
    """Multiaddrs with `/p2p/ID`; several of one relay are tried together."""
    tokens: tuple[str, ...] = ()
    """What relays have given to this peer to show (`lattica relay token new`); each is sent to the
    relay that it is of, and to nobody else."""
    use_bootstrap: bool = True
    """Whether bootstrap peers that relay are used too."""
    reservations: int = 2
    """Relays to hold a reservation at, when there are so many. 0: none."""
    request_timeout: float = 5.0
    """For a relay to answer a request for a reservation."""
    circuit_timeout: float = 10.0
    """For a relay to connect us to a peer, its own connection to us included."""
    min_lifetime: float = 5.0
    """A reservation that lasts no longer than this is none."""
    max_lifetime: float = 24 * 3600.0
    """A reservation is renewed as if it lasted no longer than this."""
    retry_first: float = 1.0
    """Longest pause after the first request that fails; doubles with each one after that."""
    retry_limit: float = 300.0
    """No pause is longer."""
    switch_after: float = 60.0
    """A relay has to be clearly nearer for so long before it replaces one that works."""
    max_inbound_pending: int = 64
    """Circuits that one relay brings and that are not yet authenticated."""

    def __post_init__(self) -> None:
        require_types(self)
        require_texts("relays", self.relays)
        require_texts("tokens", self.tokens)
        require(len(self.tokens) <= MAX_RELAYS, "tokens", f"at most {MAX_RELAYS}", len(self.tokens))
        require(len(self.relays) <= MAX_RELAYS, "relays", f"at most {MAX_RELAYS}", len(self.relays))
        require(0 <= self.reservations <= 16, "reservations", "0 to 16", self.reservations)
        require(
            self.max_inbound_pending >= 1, "max_inbound_pending", "at least 1",
            self.max_inbound_pending,
        )  # fmt: skip
        for name in (
            "request_timeout",
            "circuit_timeout",
            "min_lifetime",
            "max_lifetime",
            "retry_first",
            "retry_limit",
            "switch_after",
        ):
            require_seconds(name, getattr(self, name))
        require(
            self.max_lifetime > self.min_lifetime,
            "max_lifetime",
            f"more than min_lifetime ({self.min_lifetime})",
            self.max_lifetime,
        )

    def token_for(self, relay: PeerId) -> bytes:
        """What to show a relay; empty where it has given nothing.

        Raises:
            AddressError: there is a token that is none.
        """
        return tokens_by_relay(self.tokens).get(relay, b"")


@lru_cache(maxsize=16)
def tokens_by_relay(texts: tuple[str, ...]) -> Mapping[PeerId, bytes]:
    """The last token of each relay.

    Raises:
        AddressError: one of them is none.
    """
    found = map(parse_token, texts)
    return {open_token(data).relay: data for data in found}
