"""Streams that peers have opened: how many there may be, and until when without a protocol."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import trio

from lattica.nat.base.limits.places import Places
from lattica.nat.config import Limits
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.session import RESOURCE_LIMIT
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.background import Background
from lattica.nat.swarm.serving.protocols import ProtocolTable


class InboundStreams:
    """Has each served once its protocol is known.

    Only so many may be without one: of a connection, and of all, where they have places, which
    those who have none yet take from the network that has most. And a network has only so many
    streams: each takes some KiB, whatever it is for, and identities are free.
    """

    def __init__(
        self,
        limits: Limits,
        protocols: ProtocolTable,
        background: Background,
        *,
        unproven_after: float,
    ) -> None:
        self._limit = limits.max_inbound_streams_negotiating
        self._of_network_limit = limits.max_inbound_streams_per_network
        self._protocols = protocols
        self._background = background
        self._places = Places[Stream](
            limits.max_streams_negotiating_total, unproven_after=unproven_after
        )
        self._of_network: dict[Hashable, Places[Stream]] = {}
        """All streams, by the network of the peer that has opened them."""
        self.negotiating: dict[int, int] = {}
        """How many are without a protocol, by the serial of their connection."""

    def take(self, stream: Stream) -> None:
        """A peer has opened a stream."""
        serial = stream.connection.serial
        count = self.negotiating.get(serial, 0)
        if count >= self._limit:
            stream.reset("too many streams without a protocol")
            return
        source, now = stream.connection.source, trio.current_time()
        dropped = self._places.enter(stream, source, now)
        for other in [stream] if dropped is None else dropped:
            other.reset("too many streams without a protocol")
        if dropped is None:
            return
        places = self._of_network.get(source.network)
        if places is None:
            places = self._of_network[source.network] = Places(self._of_network_limit)
        dropped = places.enter(stream, source, now)
        for other in [stream] if dropped is None else dropped:
            other.reset("too many streams of its network", code=RESOURCE_LIMIT)
        if dropped is None:
            self._places.leave(stream)
            return
        self.negotiating[serial] = count + 1
        self._background.require_nursery().start_soon(
            self._serve, stream, serial, places, source.network
        )

    async def _serve(
        self, stream: Stream, serial: int, places: Places[Stream], network: Hashable
    ) -> None:
        try:
            await self._protocols.serve(stream, partial(self._negotiated, stream, serial))
        finally:
            places.leave(stream)
            if not places and self._of_network.get(network) is places:
                del self._of_network[network]

    def _negotiated(self, stream: Stream, serial: int) -> None:
        self._places.leave(stream)
        left = self.negotiating.pop(serial, 1) - 1
        if left > 0:
            self.negotiating[serial] = left

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self.negotiating.pop(connection.serial, None)
