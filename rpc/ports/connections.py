"""The connections of a node's ports, and who is told of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from lattica.nat.base.foreign_code import settle
from lattica.nat.mux.stream import Stream
from lattica.rpc.ports.events import (
    ConnectionClosed,
    ConnectionOpened,
    PortCallback,
    PortEvent,
    Side,
)
from lattica.rpc.ports.pump import Pump

logger = logging.getLogger(__name__)


def tell(on_event: PortCallback | None, event: PortEvent) -> None:
    """Call a callback, whose mistakes cost no connection."""
    if on_event is not None:
        try:
            on_event(event)
        except BaseException as error:
            settle(
                error,
                lambda own: logger.error(
                    "what is told of the connections of ports raised", exc_info=own
                ),
            )


@dataclass(frozen=True, slots=True)
class _Live:
    opened: ConnectionOpened
    pump: Pump
    since: float


class Connections:
    """Those that are open, for :attr:`Ports.connections`."""

    def __init__(self) -> None:
        self._live: dict[int, _Live] = {}
        self._ids = itertools.count(1)

    @contextmanager
    def told(
        self,
        pump: Pump,
        side: Side,
        port: str,
        stream: Stream,
        local: str,
        on_event: PortCallback | None,
    ) -> Iterator[None]:
        """Tell of a connection's begin, and of its end when the block is left."""
        number, path, peer_id = next(self._ids), stream.connection.path, stream.peer_id
        opened = ConnectionOpened(side, number, port, peer_id, local, path)
        self._live[number] = _Live(opened, pump, trio.current_time())
        logger.debug("port %s: connection %d opened peer=%s", port, number, peer_id)
        try:
            tell(on_event, opened)
            yield
        finally:
            closed = self._status(self._live.pop(number), pump.reason)
            logger.debug("port %s: connection %d %s", port, number, closed.reason)
            tell(on_event, closed)

    def open(self) -> tuple[ConnectionClosed, ...]:
        """What there would be to be told if all were closed now; the reason is empty."""
        return tuple(self._status(live, "") for live in self._live.values())

    def _status(self, live: _Live, reason: str) -> ConnectionClosed:
        opened = live.opened
        return ConnectionClosed(
            opened.side,
            opened.id,
            opened.port,
            opened.peer_id,
            opened.local,
            opened.path,
            live.pump.bytes_to_peer,
            live.pump.bytes_from_peer,
            trio.current_time() - live.since,
            reason,
        )
