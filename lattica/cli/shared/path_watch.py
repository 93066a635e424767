"""By what path a peer is reached while a command works with it, for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.swarm.events import EventStream, PathChanged, PeerConnected


@dataclass(frozen=True, slots=True)
class PathStep:
    """From when on a path was in use."""

    path: str
    """"relayed", or "direct-" and tcp, quic, ws or wss."""
    after: float
    """Seconds since the watch began."""


class PathWatch:
    """Notes the paths to one peer, and calls `tell` with each as it comes into use."""

    def __init__(self, peer_id: PeerId, on_step: Callable[[PathStep], None]) -> None:
        self.steps: list[PathStep] = []
        self._peer_id = peer_id
        self._on_step = on_step
        self._began = trio.current_time()

    async def run(self, events: EventStream) -> None:
        """Listen to a node's events until cancelled, or until they end."""
        async for event in events:
            if isinstance(event, PeerConnected | PathChanged) and event.peer_id == self._peer_id:
                step = PathStep(event.path, trio.current_time() - self._began)
                if not self.steps or self.steps[-1].path != step.path:
                    self.steps.append(step)
                    self._on_step(step)
