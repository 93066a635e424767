"""What other peers want of this node, and has not been here yet. Pure."""

from __future__ import annotations

from lattica.content.bitswap.messages import MAX_WANTS, Want
from lattica.content.manifest.cid import Cid
from lattica.nat.base.keys.peer_id import PeerId

MAX_PEERS = 1024
"""Whose wants are kept; beyond that those of the peer that was heard of longest ago go."""


class Wanted:
    """Open wants of peers, for when a block arrives: at most `MAX_WANTS` of each."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, dict[Cid, bool]] = {}

    def note(self, peer: PeerId, cid: Cid, want: Want) -> None:
        """Remember a want that could not be met."""
        wants = self._peers.pop(peer, {})
        self._peers[peer] = wants  # heard of last
        if len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        wants.pop(cid, None)
        wants[cid] = want.have_only
        if len(wants) > MAX_WANTS:
            del wants[next(iter(wants))]

    def forget(self, peer: PeerId, cid: Cid | None = None) -> None:
        """A peer wants a block no more; None: none, or it is gone."""
        wants = self._peers.get(peer)
        if wants is None:
            return
        if cid is None:
            wants.clear()
        else:
            wants.pop(cid, None)
        if not wants:
            del self._peers[peer]

    def take(self, cid: Cid) -> list[tuple[PeerId, bool]]:
        """Who waits for a block that is here now, and whether for its presence only."""
        found = [(peer, wants[cid]) for peer, wants in self._peers.items() if cid in wants]
        for peer, _ in found:
            self.forget(peer, cid)
        return found
