"""Connections in use: whether there is room for one, what is told of it, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.network_groups import network_at
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.addresses.address_book import AddressBook
from lattica.nat.swarm.addresses.doubtful import DoubtfulAddresses
from lattica.nat.swarm.background import Background
from lattica.nat.swarm.dialing.known import KnownAddresses
from lattica.nat.swarm.events import EventBus, PathChanged, PeerConnected, PeerDisconnected
from lattica.nat.swarm.registry import Registry

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Connections that are looked at in one turn, or trimmed: what ends takes its time, too."""

ConnectionHook = Callable[[Connection], Awaitable[None]]


class Connections:
    """Puts connections into use, runs each, and forgets it when it has ended.

    Args:
        is_closing: whether the swarm shuts down, and takes no more.
        on_taken: called when one is in use, before anybody is told.
        on_forgotten: called when one counts no more.
        on_ended: called when one has ended, and what it had is free.
        on_changed: called when one is in use, or counts no more.
    """

    def __init__(
        self,
        registry: Registry,
        background: Background,
        events: EventBus,
        address_book: AddressBook,
        known: KnownAddresses,
        doubtful: DoubtfulAddresses,
        *,
        is_closing: Callable[[], bool],
        on_taken: Callable[[Connection], None],
        on_forgotten: Callable[[Connection], None],
        on_ended: Callable[[], None],
        on_changed: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._background = background
        self._events = events
        self._address_book = address_book
        self._known = known
        self._doubtful = doubtful
        self._is_closing = is_closing
        self._on_taken = on_taken
        self._on_forgotten = on_forgotten
        self._on_ended = on_ended
        self._on_changed = on_changed
        self._paths: dict[PeerId, Connection] = {}
        self.on_connected: list[ConnectionHook] = []
        self.on_disconnected: list[ConnectionHook] = []

    def register(self, connection: Connection) -> None:
        """Put a connection into use; where there is no room for it, it is aborted."""
        nursery = self._background.nursery
        if nursery is None or self._is_closing():
            connection.abort("this node shuts down")
            return
        registry, limits = self._registry, self._registry.limits
        same_peer = registry.by_peer.get(connection.peer_id, ())
        if len(same_peer) >= limits.max_connections_per_peer:
            registry.limits_hit["max_connections_per_peer"] += 1
            self.refuse(connection, "too many connections to this peer")
            peer_log.log(
                logger,
                logging.INFO,
                connection.peer_id,
                "connection refused: too many to one peer peer=%s",
                connection.peer_id,
            )
            return
        if registry.total >= limits.max_connections and connection.direction is Direction.INBOUND:
            registry.limits_hit["max_connections"] += 1
            for old in registry.to_trim(trio.current_time(), adding=1)[:AT_ONCE]:
                old.abort("trimmed: this node has too many connections")
                self._forget(old)  # its place is needed now
            if registry.total >= limits.max_connections:
                self.refuse(connection, "this node has too many connections")
                peer_log.log(
                    logger,
                    logging.WARNING,
                    network_at(connection.remote_addr),
                    "connection refused: limit of %d reached, all in use peer=%s",
                    limits.max_connections,
                    connection.peer_id,
                )
                return
        self._known.on_connected(connection)
        first = registry.add(connection)
        nursery.start_soon(self._run, connection)
        self._on_taken(connection)
        if first:
            self._events.publish(
                PeerConnected(
                    connection.peer_id,
                    connection.remote_addr,
                    connection.direction,
                    connection.path,
                )
            )
        self._note_path(connection.peer_id)
        self._on_changed()

    def refuse(self, connection: Connection, reason: str) -> None:
        """Be rid of a connection that was not put into use."""
        connection.abort(reason)
        # Does no more than let go of the pipe, which for some takes waiting.
        self._background.require_nursery().start_soon(connection.run)

    def _note_path(self, peer_id: PeerId) -> None:
        """Tell if new streams to a peer take another path from now on."""
        best, before = self._registry.best(peer_id), self._paths.get(peer_id)
        if best is None:
            if peer_id not in self._registry.by_peer:
                self._paths.pop(peer_id, None)
            return
        self._paths[peer_id] = best
        if before is not None and before is not best and before.path != best.path:
            self._events.publish(PathChanged(peer_id, best.path, best.remote_addr, before.path))

    async def _run(self, connection: Connection) -> None:
        nursery = self._background.require_nursery()
        for hook in self.on_connected:
            self._background.start_soon(hook, connection)
        try:
            await connection.run()
        finally:
            reason = connection.closed_reason or "closed"
            logger.debug("connection ended: %s peer=%s", reason, connection.peer_id)
            if connection.stalled and self._address_book.addrs(connection.peer_id):
                self._note_stalled(connection, reason)
            self._forget(connection)
            self._on_ended()
            if not nursery.cancel_scope.cancel_called:
                for hook in self.on_disconnected:
                    self._background.start_soon(hook, connection)

    def _note_stalled(self, connection: Connection, reason: str) -> None:
        peer_id, addr = connection.peer_id, connection.remote_addr
        doubt = self._doubtful.add(peer_id, addr, reason, since=connection.established_at)
        if doubt is None:
            return
        peer_log.log(
            logger,
            logging.INFO,
            peer_id,
            "path connects but does not carry: for %.0f s others are tried first peer=%s addr=%s",
            doubt.until - trio.current_time(),
            peer_id,
            addr,
        )

    def _forget(self, connection: Connection) -> None:
        """The connection counts no more."""
        if self._registry.remove(connection):
            self._address_book.used(connection.peer_id)
            reason = connection.closed_reason or "closed"
            self._events.publish(
                PeerDisconnected(connection.peer_id, reason, connection.interrupted)
            )
        self._note_path(connection.peer_id)
        self._on_forgotten(connection)
        self._on_changed()
