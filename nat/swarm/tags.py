"""What peers are worth, and which of them are not to be trimmed. Pure bookkeeping."""

from __future__ import annotations

from lattica.nat.base.keys.identity import PeerId


class PeerTags:
    """Named values and protections of peers; each name is of one user."""

    def __init__(self) -> None:
        self._values: dict[PeerId, dict[str, int]] = {}
        self._protected: dict[PeerId, set[str]] = {}

    def tag(self, peer_id: PeerId, name: str, value: int) -> None:
        """Say what a peer is worth; replaces what was said under the name."""
        self._values.setdefault(peer_id, {})[name] = value

    def untag(self, peer_id: PeerId, name: str) -> None:
        """Take a value back; no error when there is none."""
        values = self._values.get(peer_id, {})
        values.pop(name, None)
        if not values:
            self._values.pop(peer_id, None)

    def value(self, peer_id: PeerId) -> int:
        """The sum of a peer's values."""
        return sum(self._values.get(peer_id, {}).values())

    def protect(self, peer_id: PeerId, name: str) -> None:
        """Spare a peer until everybody who has protected it unprotects it."""
        self._protected.setdefault(peer_id, set()).add(name)

    def unprotect(self, peer_id: PeerId, name: str) -> bool:
        """Take one protection back; True if others remain."""
        names = self._protected.get(peer_id, set())
        names.discard(name)
        if not names:
            self._protected.pop(peer_id, None)
        return bool(names)

    def is_protected(self, peer_id: PeerId) -> bool:
        return peer_id in self._protected
