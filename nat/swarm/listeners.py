"""What a swarm listens on, and the handshakes of those who come in."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    LatticaError,
    ListenError,
)
from lattica.nat.base.limits.places import Places, source_of
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving, resolve
from lattica.nat.base.net.network_groups import network_at
from lattica.nat.base.peer_log import peer_log
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.background import Background
from lattica.nat.swarm.dialing.connector import Connector
from lattica.nat.swarm.events import EventBus, ListeningOn
from lattica.nat.transport.base import Listener, RawConn, SecureLink, Transport

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)


class Listeners:
    """Accepts on all of them, and hands on what has come through the handshake.

    Handshakes under way have places (:attr:`pending`), which those who have none yet take from
    the network that has most.
    """

    def __init__(
        self,
        config: SwarmConfig,
        transports: Sequence[Transport],
        connector: Connector,
        events: EventBus,
        background: Background,
        register: Callable[[Connection], None],
        on_failure: Callable[[], None],
        *,
        unproven_after: float,
    ) -> None:
        self._config = config
        self._transports = transports
        self._connector = connector
        self._events = events
        self._background = background
        self._register = register
        self._on_failure = on_failure
        """Called when a handshake has come to nothing, and what it had is free."""
        self._all: list[Listener] = []
        self._closing = False
        self.turned_away = 0
        """Handshakes that had no place, or lost it to another."""
        self.pending = Places[trio.CancelScope](
            config.limits.max_pending_inbound, unproven_after=unproven_after, newest_first=True
        )
        """Handshakes under way; each with the scope that ends it."""

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """As bound, wildcards included."""
        return tuple(addr for listener in self._all for addr in listener.addrs)

    @property
    def udp_endpoints(self) -> tuple[QuicEndpoint, ...]:
        """The QUIC sockets among them, first bound first."""
        from lattica.nat.quic.endpoint import QuicEndpoint

        return tuple(e for e in self._all if isinstance(e, QuicEndpoint))

    async def aclose(self) -> None:
        """Accept nobody any more. Idempotent."""
        self._closing = True
        for listener in self._all:
            await listener.aclose()

    async def listen(self, addr: Multiaddr) -> tuple[Multiaddr, ...]:
        """See :meth:`lattica.nat.swarm.swarm.Swarm.listen`."""
        if not needs_resolving(addr):
            return await self._listen(addr)
        bound: list[Multiaddr] = []
        refusal = ListenError(f"cannot listen on {addr}: the name was not resolved")
        for resolved in await resolve([addr]):
            if not needs_resolving(resolved):
                try:
                    bound += await self._listen(resolved)
                except ListenError as error:
                    refusal = error
        if not bound:
            raise refusal
        return tuple(bound)

    async def listen_if_possible(self, addr: Multiaddr) -> None:
        """As :meth:`listen`, but a machine without IPv6 does without "any IPv6 address"."""
        ip = ip_of(addr)
        try:
            await self.listen(addr)
        except ListenError as error:
            if ip is None or ip.version != 6 or not ip.is_unspecified:
                raise
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            logger.info("not listening on IPv6: this machine has none addr=%s", addr)

    async def _listen(self, addr: Multiaddr) -> tuple[Multiaddr, ...]:
        nursery = self._background.require_nursery()
        for transport in self._transports:
            if transport.can_listen(addr):
                listener = await transport.listen(addr)
                break
        else:
            raise ListenError(f"no transport listens on {addr}")
        self._all.append(listener)
        nursery.start_soon(self._accept_loop, listener)
        for bound in listener.addrs:
            self._events.publish(ListeningOn(bound))
            logger.info("listening addr=%s", bound)
        return listener.addrs

    async def _accept_loop(self, listener: Listener) -> None:
        nursery = self._background.require_nursery()
        while True:
            try:
                raw = await listener.accept()
            except (OSError, trio.ClosedResourceError):
                if not self._closing:
                    logger.exception("listener failed addrs=%s", listener.addrs)
                return
            try:
                self._connector.gater.check_address(raw.remote_addr)
            except AccessDeniedError as error:
                logger.debug("inbound connection refused: %s", error)
                raw.abort()
                continue
            nursery.start_soon(self._handle_inbound, raw)

    async def _handle_inbound(self, raw: RawConn | SecureLink) -> None:
        now = trio.current_time()
        scope = trio.CancelScope(deadline=now + self._config.timeouts.handshake)
        dropped = self.pending.enter(scope, source_of(raw.remote_addr), now)
        if dropped is None:
            self.turned_away += 1
            raw.abort()
            return
        for other in dropped:
            self.turned_away += 1
            other.cancel()
        reason: str | None = None
        connection = None
        try:
            with scope:
                connection = await self._connector.connect(raw, Direction.INBOUND, initiator=False)
        except (LatticaError, OSError) as error:
            reason = str(error)  # the error has this frame, which must not have it
        except Exception as error:
            peer_log.log(
                logger,
                logging.ERROR,
                network_at(raw.remote_addr),
                "inbound handshake: internal error addr=%s",
                raw.remote_addr,
                exc_info=error,
            )
        finally:
            evicted = scope not in self.pending
            self.pending.leave(scope)
            if connection is None:
                raw.abort()
                self._on_failure()
        if scope.cancelled_caught:
            reason = "too many handshakes at once" if evicted else "handshake took too long"
        if connection is not None:
            self._register(connection)
        elif reason is not None:
            peer_log.log(
                logger,
                logging.INFO,
                network_at(raw.remote_addr),
                "inbound connection failed: %s addr=%s",
                reason,
                raw.remote_addr,
            )
