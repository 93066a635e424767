"""Who of the connected peers is in a topic, as events."""

from __future__ import annotations

import trio

from lattica.dht.topics.core.actions import Subscribed, Unsubscribed
from lattica.nat.base.keys.peer_id import PeerId

Event = Subscribed | Unsubscribed


class NeighbourEvents:
    """One watcher's events. What a peer has done and undone before it was read is left out, so that
    no more waits than there are peers. Ends with the node.
    """

    def __init__(self, topic: str, present: tuple[PeerId, ...]) -> None:
        self.topic = topic
        self._changes: dict[PeerId, bool] = dict.fromkeys(present, True)
        self._told: set[PeerId] = set()
        self._arrived = trio.Event()
        self._closed = False

    def tell(self, event: Event) -> None:
        """For the node."""
        self._changes.pop(event.peer_id, None)
        here = isinstance(event, Subscribed)
        if here != (event.peer_id in self._told):
            self._changes[event.peer_id] = here
            self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> NeighbourEvents:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._changes:
            if self._closed:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        peer_id = next(iter(self._changes))
        if self._changes.pop(peer_id):
            self._told.add(peer_id)
            return Subscribed(self.topic, peer_id)
        self._told.discard(peer_id)
        return Unsubscribed(self.topic, peer_id)
