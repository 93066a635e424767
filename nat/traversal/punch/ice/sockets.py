"""ICE agents on the sockets that QUIC listens on: who gets which datagram.

Several attempts share a socket. A check names the agent that it is for by the username fragment
in front of the colon, an answer by the transaction of its check.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.ice.agent import Failed, IceAgent, Nominated
from lattica.nat.traversal.punch.ice.stun import recipient

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)


class IceSession:
    """An agent with its sockets, and the task that serves it.

    endpoints: in the order of the numbers that the agent's candidates call them by.
    """

    def __init__(self, agent: IceAgent, endpoints: Sequence[QuicEndpoint]) -> None:
        self.agent = agent
        self.endpoints = tuple(endpoints)
        self._outcome: Nominated | Failed | None = None
        self._decided = trio.Event()
        self._wake = trio.Event()

    async def serve(self, start_at: float) -> None:
        """Run the agent, whose first check goes out at `start_at`, until cancelled."""
        agent = self.agent
        started = False
        while True:
            self._wake = trio.Event()
            if not started and trio.current_time() >= start_at:
                started = True
                agent.start()
            else:
                agent.on_timer()
            self._flush()
            timer = agent.next_timer() if started else start_at
            with trio.move_on_at(timer if timer is not None else math.inf):
                await self._wake.wait()

    async def outcome(self) -> Nominated | Failed:
        """Wait until the agent has found a pair, or given up."""
        await self._decided.wait()
        assert self._outcome is not None
        return self._outcome

    def take(self, data: bytes, endpoint: QuicEndpoint, source: tuple[str, int]) -> None:
        """A datagram for the agent."""
        self.agent.receive(data, self.endpoints.index(endpoint), source)
        self._flush()
        self._wake.set()

    def _flush(self) -> None:
        for outgoing in self.agent.datagrams_to_send():
            endpoint = self.endpoints[outgoing.base]
            endpoint.send_probe(outgoing.data, outgoing.destination)
        for event in self.agent.events():
            logger.debug("ICE: %s", event)
            if isinstance(event, Nominated | Failed) and self._outcome is None:
                self._outcome = event
                self._decided.set()


class IceSockets:
    """Hands what comes to the sockets to the sessions. Listens only while there are any."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._sessions: dict[str, IceSession] = {}
        self._listening: dict[QuicEndpoint, trio.CancelScope] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, ufrag: str, session: IceSession) -> None:
        """From now on checks for `ufrag` go to `session`. The caller bounds their number."""
        self._sessions[ufrag] = session
        for endpoint in session.endpoints:
            if endpoint not in self._listening:
                scope = self._listening[endpoint] = trio.CancelScope()
                self._swarm.start_soon(self._listen, endpoint, scope)

    def remove(self, ufrag: str) -> None:
        del self._sessions[ufrag]
        used = {endpoint for other in self._sessions.values() for endpoint in other.endpoints}
        for endpoint in self._listening.keys() - used:
            self._listening.pop(endpoint).cancel()

    async def _listen(self, endpoint: QuicEndpoint, scope: trio.CancelScope) -> None:
        with scope, endpoint.foreign() as channel:
            async for data, source in channel:
                self._dispatch(data, endpoint, source[:2])

    def _dispatch(self, data: bytes, endpoint: QuicEndpoint, source: tuple[str, int]) -> None:
        whose = recipient(data)
        if isinstance(whose, bytes):
            owners = (one for one in self._sessions.values() if one.agent.owns(whose))
            session = next(owners, None)
        else:
            session = self._sessions.get(whose) if whose is not None else None
        if session is not None and endpoint in session.endpoints:
            session.take(data, endpoint, source)
