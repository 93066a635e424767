"""Nodes of the original among the peers: who they are, what they are called by, and served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from lattica.compat.kad.service import OriginalKad
from lattica.compat.wire.circuits import Circuits
from lattica.compat.wire.client import OriginalClient
from lattica.compat.wire.messages import UNARY
from lattica.compat.wire.server import OriginalServer
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.events import PeerDisconnected
from lattica.node import Node
from lattica.node.dht_ties import SwarmTies
from lattica.rpc.data_plane.budget import ReceiveBudget

_AGENT: Final = "rust-libp2p/"
"""How nodes of the original call themselves. Nodes of ours serve the same protocols."""
_IDENTIFIED: Final = 10.0
"""Seconds that a peer has to say what it speaks."""


class Original:
    """The original's RPC on a node, in both roles. Used with :func:`open_original`."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        config = node.rpc.config
        self._tasks = Tasks(nursery)
        budget = ReceiveBudget(
            config.receive_memory, config.receive_memory_per_peer, trio.current_time
        )
        self.client = OriginalClient(node, self._tasks, budget)
        self.server = OriginalServer(node, self._tasks, budget, config.max_threads)
        self.kad = OriginalKad(
            node,
            SwarmTies(node.swarm, lambda: ()),
            node.config.swarm.identify.protocol_version,
            lambda: self.peers,
            names=node.swarm.told_names,
        )
        # Before anybody connects: rust-libp2p asks a peer for topics once for each connection.
        self._circuits = Circuits(node)
        self._tasks.start_soon(self._circuits.run)
        self.peers: set[PeerId] = set()
        """Connected nodes of the original; may be looked at in any thread."""
        self._silent: set[PeerId] = set()
        """Connected peers that have not said who they are when they were waited for."""
        node._identify.on_identified.append(lambda connection, _: self._identified(connection))
        for connection in node.swarm.registry:
            self._identified(connection)
        self._tasks.start_soon(self._follow)

    def _identified(self, connection: Connection) -> None:
        self._silent.discard(connection.peer_id)
        if connection.agent.startswith(_AGENT) and UNARY in connection.known_protocols:
            if connection.peer_id not in self.peers:
                self.peers.add(connection.peer_id)
                self._tasks.start_soon(self.kad.hand_over, connection.peer_id)
            self._circuits.peer_came()
        else:
            self.peers.discard(connection.peer_id)

    async def _follow(self) -> None:
        with self._node.events() as events:
            async for event in events:
                if isinstance(event, PeerDisconnected):
                    self.peers.discard(event.peer_id)
                    self._silent.discard(event.peer_id)
                    self.client.forget(event.peer_id)

    def is_known_of(self, peer: PeerId) -> bool | None:
        """Whether a connected peer is of the original; None if that is not known yet."""
        connection = self._node.swarm.registry.best(peer)
        if connection is not None and (connection.agent or peer in self._silent):
            return peer in self.peers
        return None

    async def is_spoken_by(self, peer: PeerId) -> bool:
        """Whether a peer is of the original; connects to it, and asks it, if need be.

        False also if it cannot be reached: whoever calls it then finds out why.
        """
        if (known := self.is_known_of(peer)) is not None:
            return known
        registry = self._node.swarm.registry
        if registry.best(peer) is None:
            try:
                await self._node.connect(peer)
            except LatticaError:
                return False
        with trio.move_on_after(_IDENTIFIED):
            while (connection := registry.best(peer)) is not None and not connection.agent:
                await self._node.swarm.wait_changed()
            return peer in self.peers
        self._silent.add(peer)  # or each call would wait
        return False

    async def aclose(self) -> None:
        """End what is under way."""
        self.server.close()
        self.kad.close()
        self._tasks.cancel()
        with trio.CancelScope(shield=True):
            await self._tasks.wait_ended()


@asynccontextmanager
async def open_original(node: Node) -> AsyncIterator[Original]:
    """Speak the original's RPC, for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        original = Original(node, nursery)
        try:
            yield original
        finally:
            await original.aclose()
