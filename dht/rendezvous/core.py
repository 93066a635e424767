"""What a rendezvous point keeps, pure: who has registered where, and until when.

Source: https://github.com/libp2p/specs/blob/master/rendezvous/README.md.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.dht.rendezvous.messages import (
    MAX_NAMESPACE,
    Discover,
    Discovered,
    Register,
    Registered,
    Status,
    Unregister,
)
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.limits.quotas import Quotas

MOST_ANSWERED = 256
"""Registrations in an answer; what is more is asked for with its cookie."""
MOST_BYTES = 128 * 1024
"""Bytes of the records and namespaces in an answer, likewise."""
_OVERHEAD = 1536
"""Bytes that a registration takes beside its record and namespace, about."""
_OF_NETWORK, _OF_PEER = 4, 64
"""The parts of the memory that a network and a peer may take, one of so many."""
_NUMBER = 8
_INSTANCE = 8

_Key = tuple[str, PeerId]


@dataclass(frozen=True, slots=True)
class _Registration:
    number: int
    namespace: str
    peer_id: PeerId
    record: bytes
    until: float


class _Line:
    """Registrations by their numbers, which ascend; those that are gone are passed over."""

    __slots__ = ("_entries", "_gone")

    def __init__(self) -> None:
        self._entries: list[tuple[int, _Key]] = []
        self._gone = 0

    def append(self, made: _Registration) -> None:
        self._entries.append((made.number, (made.namespace, made.peer_id)))

    def since(self, seen: int) -> Iterator[tuple[int, _Key]]:
        """Those with a higher number, and some that are gone, in order.

        It costs no more to begin in the middle than at an end.
        """
        entries = self._entries
        for place in range(bisect_right(entries, seen, key=itemgetter(0)), len(entries)):
            yield entries[place]

    def note_gone(self, all_of_them: dict[_Key, _Registration]) -> bool:
        """One of its registrations is gone from all of them; whether none is left."""
        self._gone += 1
        if 2 * self._gone > len(self._entries):
            self._entries = [
                (number, key)
                for number, key in self._entries
                if (found := all_of_them.get(key)) is not None and found.number == number
            ]
            self._gone = 0
        return not self._entries


class RendezvousCore:
    """Registrations by namespace.

    Args:
        instance: 8 random bytes, which mark the cookies of this point's life.
    """

    def __init__(self, config: RendezvousConfig, instance: bytes) -> None:
        self._config = config
        self._instance = instance[:_INSTANCE]
        self._number = 0
        self._all: dict[_Key, _Registration] = {}
        self._line = _Line()
        self._namespaces: dict[str, _Line] = {}
        self._of_peer: dict[PeerId, int] = {}
        self._places: Places[_Key] = Places(config.registrations)
        memory = config.memory
        self._memory: Quotas[_Key] = Quotas(memory, memory // _OF_PEER, memory // _OF_NETWORK)
        self._expiry: list[tuple[float, int, _Key]] = []

    def __len__(self) -> int:
        return len(self._all)

    def register(self, source: Source, peer_id: PeerId, asked: Register, now: float) -> Registered:
        """A peer wants to be found. `source` is what it counts as where room is short."""
        self._expire(now)
        config = self._config
        ttl = config.default_ttl if asked.ttl is None else asked.ttl
        if not _is_namespace(asked.namespace):
            return Registered(Status.INVALID_NAMESPACE, "the namespace is empty or too long")
        if not config.min_ttl <= ttl <= config.max_ttl:
            return Registered(
                Status.INVALID_TTL, f"from {config.min_ttl:g} to {config.max_ttl:g} seconds"
            )
        try:
            record = open_record(asked.record)
        except RemoteProtocolError as error:
            return Registered(Status.INVALID_RECORD, str(error))
        if record.peer_id != peer_id:
            return Registered(Status.NOT_AUTHORIZED, "the record is another peer's")
        key = (asked.namespace, peer_id)
        if key not in self._all and self._of_peer.get(peer_id, 0) >= config.registrations_per_peer:
            return Registered(Status.UNAVAILABLE, "too many registrations of this peer")
        weight = len(asked.record) + len(asked.namespace.encode()) + _OVERHEAD
        yielding = self._memory.admit(key, source, weight)
        if yielding is None:
            return Registered(Status.UNAVAILABLE, "there is no memory left")
        for loser in yielding:
            self._forget(loser)
        self._forget(key, renewed=True)
        losers = self._places.enter(key, source, now, proven=True)
        if losers is None:
            self._memory.release(key)
            return Registered(Status.UNAVAILABLE, "there is no room")
        for loser in losers:
            self._forget(loser)
        self._number += 1
        made = _Registration(self._number, asked.namespace, peer_id, asked.record, now + ttl)
        self._all[key] = made
        self._line.append(made)
        self._namespaces.setdefault(asked.namespace, _Line()).append(made)
        self._of_peer[peer_id] = self._of_peer.get(peer_id, 0) + 1
        heapq.heappush(self._expiry, (made.until, made.number, key))
        if len(self._expiry) > 2 * len(self._all) + 1024:
            self._expiry = [(each.until, each.number, key) for key, each in self._all.items()]
            heapq.heapify(self._expiry)
        return Registered(Status.OK, ttl=int(ttl))

    def unregister(self, peer_id: PeerId, asked: Unregister) -> None:
        """A peer does not want to be found any more; nothing happens if it is not there."""
        self._forget((asked.namespace, peer_id))

    def discover(self, asked: Discover, now: float) -> Discovered:
        """Who is in a namespace, oldest first, as many as fit."""
        self._expire(now)
        if asked.namespace is not None and not _is_namespace(asked.namespace):
            return Discovered(Status.INVALID_NAMESPACE, "the namespace is too long")
        seen = 0
        if asked.cookie:
            mark = self._instance + (asked.namespace or "").encode()
            if asked.cookie[_NUMBER:] != mark:
                return Discovered(Status.INVALID_COOKIE, "the cookie is of another question")
            seen = int.from_bytes(asked.cookie[:_NUMBER], "big")
        most = min(asked.limit or MOST_ANSWERED, MOST_ANSWERED)
        found: list[Register] = []
        size = 0
        for each in self._since(asked.namespace, seen):
            size += len(each.record) + len(each.namespace)
            if len(found) >= most or (found and size > MOST_BYTES):
                break
            found.append(Register(each.namespace, each.record, max(1, int(each.until - now))))
            seen = each.number
        cookie = seen.to_bytes(_NUMBER, "big") + self._instance + (asked.namespace or "").encode()
        return Discovered(Status.OK, registrations=tuple(found), cookie=cookie)

    def _since(self, namespace: str | None, seen: int) -> Iterator[_Registration]:
        """What has been registered after that number, in order."""
        line = self._line if namespace is None else self._namespaces.get(namespace, _Line())
        for number, key in line.since(seen):
            each = self._all.get(key)
            if each is not None and each.number == number:
                yield each

    def _expire(self, now: float) -> None:
        while self._expiry and self._expiry[0][0] <= now:
            _, number, key = heapq.heappop(self._expiry)
            found = self._all.get(key)
            if found is not None and found.number == number:
                self._forget(key)

    def _forget(self, key: _Key, *, renewed: bool = False) -> None:
        """`renewed`: what it takes of the memory is that of its successor already."""
        found = self._all.pop(key, None)
        if found is None:
            return
        self._line.note_gone(self._all)
        if self._namespaces[found.namespace].note_gone(self._all):
            del self._namespaces[found.namespace]
        self._of_peer[found.peer_id] -= 1
        if not self._of_peer[found.peer_id]:
            del self._of_peer[found.peer_id]
        self._places.leave(key)
        if not renewed:
            self._memory.release(key)


def _is_namespace(namespace: str) -> bool:
    return 0 < len(namespace.encode()) <= MAX_NAMESPACE
