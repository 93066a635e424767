"""What happens in a swarm, told to whoever subscribes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Direction

QUEUE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class ListeningOn:
    """A listen address was bound."""

    addr: Multiaddr


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The first connection to a peer is there."""

    peer_id: PeerId
    addr: Multiaddr
    direction: Direction
    path: str
    """As :attr:`lattica.nat.mux.connection.Connection.path`."""


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The last connection to a peer is gone."""

    peer_id: PeerId
    reason: str
    interrupted: bool = False
    """It had streams, and neither side wanted it to end."""


@dataclass(frozen=True, slots=True)
class PathChanged:
    """New streams to a peer now take another path than before."""

    peer_id: PeerId
    path: str
    """As :attr:`lattica.nat.mux.connection.Connection.path`."""
    addr: Multiaddr
    previous: str


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """The addresses that this node tells others are now these."""

    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Interfaces, addresses or routes of this machine have changed, or it has slept."""

    reason: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """The subscriber was too slow: in this place this many events were dropped."""

    count: int


SwarmEvent = (
    ListeningOn
    | PeerConnected
    | PeerDisconnected
    | PathChanged
    | AddressesChanged
    | NetworkChanged
    | EventsLost
)


class EventStream:
    """One subscriber's events: `async for event in stream`. Ends with the swarm."""

    def __init__(self) -> None:
        # The queue's bound is kept by `publish`, which must never wait.
        self._send, self._receive = trio.open_memory_channel[SwarmEvent](math.inf)
        self._lost = 0

    def publish(self, event: SwarmEvent) -> None:
        if self._send.statistics().current_buffer_used >= QUEUE_SIZE:
            self._lost += 1
            return
        if self._lost:
            self._send.send_nowait(EventsLost(self._lost))
            self._lost = 0
        self._send.send_nowait(event)

    def close(self) -> None:
        self._send.close()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> SwarmEvent:
        if self._lost and not self._send.statistics().current_buffer_used:
            # Nothing may follow soon that would bring the news.
            await trio.lowlevel.checkpoint_if_cancelled()
            lost, self._lost = self._lost, 0
            await trio.lowlevel.cancel_shielded_checkpoint()
            return EventsLost(lost)
        return await self._receive.__anext__()


class EventBus:
    """Hands every event to every subscriber; never waits for one."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._closed = False

    @contextmanager
    def subscribe(self) -> Iterator[EventStream]:
        """Events from now on. At most :data:`QUEUE_SIZE` wait; then see :class:`EventsLost`."""
        stream = EventStream()
        self._streams.add(stream)
        if self._closed:
            stream.close()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            stream.close()

    def publish(self, event: SwarmEvent) -> None:
        for stream in self._streams:
            stream.publish(event)

    def close(self) -> None:
        self._closed = True
        for stream in self._streams:
            stream.close()
