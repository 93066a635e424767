"""What a node keeps for nodes of the original. Pure: the clock is passed in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from lattica.compat.kad.values import (
    decode_index,
    decode_value,
    encode_index,
    is_index_key,
    merged,
)
from lattica.dht.kademlia.contact import Contact
from lattica.nat.base.keys.peer_id import PeerId

MAX_RECORDS: Final = 4096
MAX_OF_PEER: Final = 1024
"""Records, and provided keys, that one peer may bring."""
MAX_SIZE: Final = 32 * 1024 * 1024
"""Bytes of all records."""
PROVIDER_TTL: Final = 48 * 3600.0
MAX_PROVIDERS: Final = 64
"""Of one key."""


@dataclass(frozen=True, slots=True)
class _Kept:
    value: bytes
    expires: float
    source: PeerId


class OriginalStore:
    """Records and providers by key."""

    def __init__(self) -> None:
        self._records: dict[bytes, _Kept] = {}
        self._of_peer: Counter[PeerId] = Counter()
        self._size = 0
        self._providers: dict[bytes, dict[PeerId, tuple[Contact, float]]] = {}
        self._provided: Counter[PeerId] = Counter()

    def put(self, key: bytes, value: bytes, source: PeerId, now: float) -> bool:
        """Keep a record, unless the one that is there lasts longer; whether it is kept.

        Indices of subkeys become one: the original's writers lose each other's.

        Raises:
            RemoteProtocolError: it is no record of the original.
        """
        known = self._records.get(key)
        if known is not None and known.expires <= now:
            self._forget(key)
            known = None
        if is_index_key(key):
            index = decode_index(value)
            if known is not None:
                index = merged((decode_index(known.value), index))
                value = encode_index(index)
            expires = index.expires
        else:
            expires = decode_value(value).expires
            if known is not None and known.expires > expires:
                return False
        if expires <= now:
            return False
        if known is not None:
            self._forget(key)
        elif self._is_full(source):
            self._expire(now)
        if self._is_full(source) or self._size + len(value) > MAX_SIZE:
            return False
        self._records[key] = _Kept(value, expires, source)
        self._of_peer[source] += 1
        self._size += len(value)
        return True

    def get(self, key: bytes, now: float) -> bytes | None:
        """The record of a key."""
        kept = self._records.get(key)
        return None if kept is None or kept.expires <= now else kept.value

    def of(self, source: PeerId, now: float) -> list[tuple[bytes, bytes, float]]:
        """Key, record and end of all that a peer has brought."""
        return [
            (key, kept.value, kept.expires)
            for key, kept in self._records.items()
            if kept.source == source and kept.expires > now
        ]

    def _is_full(self, source: PeerId) -> bool:
        return len(self._records) >= MAX_RECORDS or self._of_peer[source] >= MAX_OF_PEER

    def _expire(self, now: float) -> None:
        for key in [key for key, kept in self._records.items() if kept.expires <= now]:
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        kept = self._records.pop(key)
        self._size -= len(kept.value)
        self._of_peer[kept.source] -= 1
        if not self._of_peer[kept.source]:
            del self._of_peer[kept.source]

    def provide(self, key: bytes, provider: Contact, now: float) -> None:
        """A peer says that it provides a key; what is too much is left out."""
        peer = provider.peer_id
        if peer not in self._providers.get(key, ()):
            if not self._may_provide(key, peer):
                self._expire_providers(now)
            if not self._may_provide(key, peer):
                return
            self._provided[peer] += 1
        self._providers.setdefault(key, {})[peer] = provider, now + PROVIDER_TTL

    def _may_provide(self, key: bytes, peer: PeerId) -> bool:
        found = self._providers.get(key, {})
        has_room = len(found) < MAX_PROVIDERS if found else len(self._providers) < MAX_RECORDS
        return has_room and self._provided[peer] < MAX_OF_PEER

    def withdraw(self, key: bytes, peer: PeerId) -> None:
        """It provides the key no more."""
        found = self._providers.get(key, {})
        if found.pop(peer, None) is not None:
            self._provided[peer] -= 1
            if not self._provided[peer]:
                del self._provided[peer]
        if not found:
            self._providers.pop(key, None)

    def providers(self, key: bytes, now: float) -> tuple[Contact, ...]:
        """Who provides a key."""
        found = self._providers.get(key, {}).values()
        return tuple(contact for contact, until in found if until > now)

    def provided_by(self, peer: PeerId) -> list[bytes]:
        """The keys that a peer provides."""
        return [key for key, found in self._providers.items() if peer in found]

    def _expire_providers(self, now: float) -> None:
        for key, found in tuple(self._providers.items()):
            for peer in [peer for peer, (_, until) in found.items() if until <= now]:
                self.withdraw(key, peer)
