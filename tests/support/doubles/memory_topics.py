"""Topics in memory: what is said reaches everyone who has subscribed, be they connected or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import trio

from lattica.nat.base.keys.identity import PeerId


class MemoryTopics:
    """Those of all nodes; `said` is all that was said, by topic."""

    def __init__(self) -> None:
        self.said: dict[str, list[bytes]] = {}
        self.hearers: dict[str, dict[PeerId, MemoryTopic]] = {}

    def of(self, peer: PeerId) -> Callable[[str], MemoryTopic]:
        """The topics as a node has them."""
        return lambda name: MemoryTopic(self, peer, name)


class MemoryTopic:
    """One, as a node has it."""

    def __init__(self, topics: MemoryTopics, peer: PeerId, name: str) -> None:
        self._topics, self._peer, self._name = topics, peer, name
        self._hearers = topics.hearers.setdefault(name, {})
        self._send, self._receive = trio.open_memory_channel[tuple[PeerId, bytes]](1000)
        self.is_fit: Callable[[bytes], bool] = lambda data: True
        self.refused = 0

    async def publish(self, data: bytes, /) -> None:
        self._topics.said.setdefault(self._name, []).append(data)
        await trio.lowlevel.checkpoint()
        for peer, topic in self._hearers.items():
            if peer == self._peer:
                continue
            if topic.is_fit(data):
                topic._send.send_nowait((self._peer, data))
            else:
                topic.refused += 1

    @asynccontextmanager
    async def subscribe(
        self, is_fit: Callable[[bytes], bool], /
    ) -> AsyncIterator[AsyncIterator[tuple[PeerId, bytes]]]:
        self._hearers[self._peer], self.is_fit = self, is_fit
        try:
            yield self._receive
        finally:
            del self._hearers[self._peer]

    def peers(self) -> Collection[PeerId]:
        return self._hearers.keys() - {self._peer}
