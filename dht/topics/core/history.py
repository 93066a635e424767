"""Which messages were seen, which are kept for others, and which have been asked for. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from lattica.dht.topics.config import GossipConfig
from lattica.nat.base.keys.peer_id import PeerId

_MAX_ASKED = 16384
"""Messages of which it is remembered that they were asked for."""


class Seen:
    """IDs of messages, and when each came first. Two generations: the older one is forgotten when
    the younger one is full, or as old as IDs have to be remembered; without those that came again,
    so that what is repeated all the time is never new.
    """

    __slots__ = ("_began", "_config", "_old", "_young")

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self._young: dict[bytes, float] = {}
        self._old: dict[bytes, float] = {}
        self._began = -math.inf

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._young or message_id in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def again(self, message_id: bytes, now: float) -> None:
        """It has come again, if it is known."""
        if message_id not in self._young and message_id in self._old:
            self._add(message_id, self._old[message_id], now)

    def add(self, message_id: bytes, now: float) -> None:
        """It has come."""
        self._add(message_id, now, now)

    def _add(self, message_id: bytes, at: float, now: float) -> None:
        young = self._young
        if len(young) * 2 >= self._config.seen_messages or now - self._began >= self._config.seen:
            self._old, self._young = young, {}
            young = self._young
            self._began = now
        young[message_id] = at


@dataclass(slots=True, eq=False)
class Entry:
    """A message that is kept."""

    id: bytes
    topic: str
    source: bytes
    """The author's binary ID."""
    rpc: bytes
    at: float
    own: bool
    verified: bool
    """That its author has signed it was checked here."""
    sent: dict[PeerId, int] = field(default_factory=dict)
    """How often to those who have asked for it."""


class History:
    """Messages that peers may still ask for: by age and bytes, the oldest go first."""

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self._entries: dict[bytes, Entry] = {}
        self._order: deque[Entry] = deque()
        self._topics: dict[str, deque[Entry]] = {}
        self._unsent: dict[str, dict[bytes, Entry]] = {}
        """Of each topic, those that no peer has been sent or told of, oldest first."""
        self.size = 0
        """Bytes of all."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, message_id: bytes) -> Entry | None:
        return self._entries.get(message_id)

    def put(self, entry: Entry, *, unsent: bool = False) -> None:
        """Keep a message; `unsent`: one of ours that nobody was there for."""
        self._entries[entry.id] = entry
        if unsent:
            self._unsent.setdefault(entry.topic, {})[entry.id] = entry
        self._order.append(entry)
        self._topics.setdefault(entry.topic, deque()).append(entry)
        self.size += len(entry.rpc)
        while self.size > self._config.history_bytes and len(self._order) > 1:
            self._drop_oldest()

    def drop(self, entry: Entry) -> None:
        """It is not offered any more."""
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]
            self.told(entry)

    def told(self, entry: Entry) -> None:
        """Somebody knows of it."""
        unsent = self._unsent.get(entry.topic)
        if unsent is not None and unsent.pop(entry.id, None) is not None and not unsent:
            del self._unsent[entry.topic]

    def unsent(self, topic: str) -> list[Entry]:
        """Of our own whatever nobody has been sent or told of, the latest first."""
        return [*reversed(self._unsent.get(topic, {}).values())]

    def expire(self, now: float) -> None:
        while self._order and now - self._order[0].at > self._config.history:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        entry = self._order.popleft()
        self.drop(entry)
        # Messages of a topic are in the same order as all of them.
        line = self._topics[entry.topic]
        line.popleft()
        if not line:
            del self._topics[entry.topic]
        self.size -= len(entry.rpc)

    def latest(self, topic: str, since: float) -> Iterator[Entry]:
        """What has come since then, the latest first."""
        for entry in reversed(self._topics.get(topic, ())):
            if entry.at < since:
                return
            if self._entries.get(entry.id) is entry:
                yield entry


class Asked:
    """Messages that peers have offered and been asked for.

    Each that is asked holds up the others once, and for each it is held to its word: one that
    offers again and again what it never sends would keep all others from being asked.
    """

    def __init__(self, config: GossipConfig) -> None:
        self._config = config
        self._asked: OrderedDict[bytes, tuple[float, tuple[PeerId, ...]]] = OrderedDict()
        """Since when others wait, and who was asked."""
        self._promised: dict[bytes, dict[PeerId, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._asked or self._promised)

    def is_due(self, message_id: bytes, now: float) -> bool:
        """Whether to ask for it: nobody was asked a moment ago."""
        asked = self._asked.get(message_id)
        return asked is None or now - asked[0] >= self._config.ask_again

    def ask(self, peer_id: PeerId, ids: list[bytes], promise: bytes, now: float) -> None:
        """A peer is asked for them; for `promise`, one of them, it is held to its word."""
        for message_id in ids:
            since, who = self._asked.pop(message_id, (now, ()))
            if peer_id not in who:
                since, who = now, (*who, peer_id)
            self._asked[message_id] = since, who
        while len(self._asked) > _MAX_ASKED:
            self._asked.popitem(last=False)
        self._promised.setdefault(promise, {}).setdefault(peer_id, now + self._config.follow_up)

    def came(self, message_id: bytes) -> None:
        self._asked.pop(message_id, None)
        self._promised.pop(message_id, None)

    def broken(self, now: float) -> list[PeerId]:
        """Who has not kept its word; and what was asked for long ago is forgotten."""
        late = [
            (key, who)
            for key, promises in self._promised.items()
            for who, until in promises.items()
            if until <= now
        ]
        for key, who in late:
            self._release(key, who)
        patience = self._config.follow_up
        for key in [key for key, (since, _) in self._asked.items() if now - since > patience]:
            del self._asked[key]
        return [who for _, who in late]

    def forgive(self, peer_id: PeerId) -> None:
        """A peer has gone: what it promised it owes no more."""
        for key in [key for key, promises in self._promised.items() if peer_id in promises]:
            self._release(key, peer_id)

    def _release(self, message_id: bytes, peer_id: PeerId) -> None:
        promises = self._promised[message_id]
        del promises[peer_id]
        if not promises:
            del self._promised[message_id]
