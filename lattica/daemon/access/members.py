"""A node that relays for members of its documents: their owners, and who has a right there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final

import trio

from lattica.crdt.store.shared_document import SharedDocument
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.relay.server.access import ALLOWED, Denial, Lists, Standing

_LOOK: Final = 1.0
"""Seconds for which it is remembered who the members are."""


def members_of(documents: Iterable[SharedDocument], now_ms: int) -> frozenset[PeerId]:
    """The owners of documents, and those who have a right there at that time.

    Whoever opens a document that is open to everybody has none.
    """
    found: set[PeerId] = set()
    for document in documents:
        found.update(owner.peer for owner in document.owners())
        with suppress(LocalProtocolError):  # it knows no rights
            found.update(
                right.peer
                for right in document.rights()
                if not right.is_revoked and (right.expires is None or right.expires > now_ms)
            )
    return frozenset(found)


class MembersAccess:
    """The lists of a relay's settings, and the members of documents with these IDs.

    `documents` gives those that are open; of a document that is not, nobody is a member. Whose
    right ends is served no more within a second. An :class:`Access` of a relay.
    """

    def __init__(
        self,
        lists: Lists,
        ids: Collection[str],
        documents: Callable[[], Iterable[SharedDocument]],
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._lists = lists
        self._ids = frozenset(ids)
        self._documents = documents
        self._now_ms = now_ms
        self._members: frozenset[PeerId] = frozenset()
        self._looked = float("-inf")

    def standing(self, peer: PeerId) -> Standing | Denial:
        standing = self._lists.standing(peer)
        if standing is ALLOWED or self._lists.denies(peer):
            return standing
        return ALLOWED if peer in self._now() else standing

    def _now(self) -> frozenset[PeerId]:
        now = trio.current_time()
        if now >= self._looked + _LOOK:
            opened = [each for each in self._documents() if each.id in self._ids]
            self._members, self._looked = members_of(opened, self._now_ms()), now
        return self._members

    async def learn(self, peer: PeerId, token: bytes, ip: IpAddress | None) -> None:
        """There is nothing more to know."""
        await trio.lowlevel.checkpoint()
