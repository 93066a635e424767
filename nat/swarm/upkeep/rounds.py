"""The look at every connection, again and again: which are silent, and which must go."""

from __future__ import annotations

import math
from collections.abc import Iterable

import trio

from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.background import Background
from lattica.nat.swarm.connections import AT_ONCE, Connections
from lattica.nat.swarm.registry import Registry
from lattica.nat.swarm.upkeep.silent_peers import SilentPeers

_TICK = 1.0
_RETIRE_IDLE = 5.0
"""Seconds without streams after which a superseded connection ends."""
_LAST_CHANCE = 1.0
"""Seconds for a sign of life on a silent connection to a peer that answers on another one."""


class Rounds:
    """Goes round the connections of a swarm."""

    def __init__(
        self,
        registry: Registry,
        connections: Connections,
        silent_peers: SilentPeers,
        background: Background,
    ) -> None:
        self._registry = registry
        self._connections = connections
        self._silent_peers = silent_peers
        self._background = background

    async def go(self) -> None:
        """Look at each connection, a few at a time, for as long as the clock ticks.

        Thousands that are pinged at once would answer at once, and nobody else had a turn.
        """
        connections = list(self._registry)
        slices = max(1, math.ceil(len(connections) / AT_ONCE))
        for number in range(slices):
            await trio.sleep(_TICK / slices)
            self._look_at(connections[number * AT_ONCE : (number + 1) * AT_ONCE])
        known = set(connections)
        self._look_at([new for new in self._registry if new not in known])
        now = trio.current_time()
        for connection in self._registry.to_retire(now, _RETIRE_IDLE):
            connection.abort("superseded by another connection to the peer")
        for connection in self._registry.to_trim(now)[:AT_ONCE]:
            connection.abort("trimmed: this node has too many connections")

    def _look_at(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            if connection.closed_reason is None:
                connection.tick()
                if self._silent_peers.is_news(connection):
                    self._background.start_soon(self._look_elsewhere, connection)

    async def _look_elsewhere(self, connection: Connection) -> None:
        """A peer that answers elsewhere is not busy: the path to it is dead."""
        other = await self._silent_peers.look_elsewhere(connection)
        if other is None:
            return
        connection.session.ping()
        connection.wake_writer()
        await trio.sleep(_LAST_CHANCE)  # it may have become busy no more just now
        works = connection.closed_reason is None and not connection.session.is_silent
        if works or other.instance != connection.instance:
            self._connections.refuse(other, "the other connection works, or is to another program")
            return
        self._connections.register(other)
        if other.closed_reason is None:
            connection.abort("the path is dead: the peer answers on another one")
