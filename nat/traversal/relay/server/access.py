"""Whom a relay serves, and as what: what its books ask, and the plain lists. Pure but for `learn`.

Other policies (tokens, a question to the operator's own service, bans) implement
:class:`Access`, and are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.relay.server.limits import RelayServerConfig


@dataclass(frozen=True, slots=True)
class Standing:
    """What a peer is to a relay. Numbers that are 0 set no limit beyond those of its kind."""

    is_stranger: bool
    rate: int = 0
    """Bytes a second on all its circuits together."""
    month: int = 0
    """Bytes on its circuits in one calendar month (UTC)."""
    circuits: int = 0
    """At once."""


@dataclass(frozen=True, slots=True)
class Denial:
    """A peer that is not served."""

    reason: str
    limit: str = "access"
    """The name under which it is counted."""


STRANGER: Final = Standing(is_stranger=True)
ALLOWED: Final = Standing(is_stranger=False)
NOT_LISTED: Final = Denial("the peer is not on the allow-list")


class Access(Protocol):
    """Says who is served. :meth:`standing` is asked for each request, and each second of whoever
    has a reservation or a circuit, so it answers from what is known."""

    def standing(self, peer: PeerId) -> Standing | Denial: ...

    async def learn(self, peer: PeerId, token: bytes, ip: IpAddress | None) -> None:
        """Find out what there is to know of a peer that asks for something, and shows `token`.

        Waits no longer than a few seconds, and raises nothing.
        """


class Lists:
    """An allow-list; others are strangers, or not served, and those on a deny-list never are."""

    def __init__(
        self, allowed: Iterable[PeerId], denied: Iterable[PeerId] = (), *, strangers: bool
    ) -> None:
        self._allowed = frozenset(allowed)
        self._denied = frozenset(denied)
        self._others = STRANGER if strangers else NOT_LISTED

    def denies(self, peer: PeerId) -> bool:
        """The peer is on the deny-list."""
        return peer in self._denied

    def standing(self, peer: PeerId) -> Standing | Denial:
        if self.denies(peer):
            return Denial("the peer is on the deny-list")
        return ALLOWED if peer in self._allowed else self._others

    async def learn(self, peer: PeerId, token: bytes, ip: IpAddress | None) -> None:
        """There is nothing more to know."""
        await trio.lowlevel.checkpoint()


def lists_of(config: RelayServerConfig) -> Lists:
    """The lists of a relay's settings."""
    return Lists(
        map(parse_peer_id, config.allow_peers),
        map(parse_peer_id, config.deny_peers),
        strangers=config.serves_strangers,
    )
