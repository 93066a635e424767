"""Serves the questions of other peers over streams."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.kademlia.contact import network_group
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Request,
    Response,
    decode_request,
    encode,
)
from lattica.dht.records.keys import VALUE
from lattica.dht.records.signed_value import decode_envelopes, in_turns
from lattica.dht.server.core import Asker, ServerCore
from lattica.dht.store.keeper import Keeper
from lattica.nat.base.errors import IncompleteReadError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream

logger = logging.getLogger(__name__)

_IDLE = 60.0
"""Seconds that a stream may be silent between questions."""
MAX_STREAMS = 1024
"""That are served at a time; see `limit` of :meth:`lattica.Node.handle`."""
_LONG = 4096
"""Bytes of a question that takes milliseconds, as it is about many keys or a large value; as many
cost as much as a frame for nothing (:meth:`~lattica.nat.mux.connection.Connection.charge`).
"""
_WRITES = (MessageType.PUT_VALUE, MessageType.ADD_PROVIDERS, MessageType.REMOVE_PROVIDERS)


class Service:
    """Answers on streams, while it is on.

    Args:
        on_asker: is told who has asked something.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        peers: Peers,
        core: ServerCore,
        keeper: Keeper,
        *,
        on_asker: Callable[[PeerId], object],
        clock: Callable[[], float],
    ) -> None:
        self._peers = peers
        self._core = core
        self._keeper = keeper
        self._on_asker = on_asker
        self._clock = clock
        self.is_on = False

    def switch(self, on: bool) -> None:
        """Serve, or serve no more; streams that are open go on. Raises what `Host.handle` does."""
        if on == self.is_on:
            return
        protocol = self._peers.config.protocol
        if on:
            self._peers.host.handle(protocol, self._serve, owner="the DHT", limit=MAX_STREAMS)
        else:
            self._peers.host.unhandle(protocol, owner="the DHT")
        self.is_on = on
        logger.debug("dht: this node %s", "is a server" if on else "only asks, as a client")

    async def _serve(self, stream: Stream) -> None:
        asker = stream.peer_id
        while True:
            with trio.move_on_after(_IDLE) as scope:
                try:
                    data = await stream.receive_message(MAX_MESSAGE)
                except IncompleteReadError:
                    return
            if scope.cancelled_caught:
                return
            at = self._peers.ties.met_at(asker)
            who = Asker(asker, None if at is None else network_group(at))
            if len(data) > _LONG:
                await stream.connection.charge("dht", len(data) // _LONG)
            try:
                request = decode_request(data)
                if request.type is MessageType.PUT_VALUE:
                    answer = await self._put(stream, request, who)
                else:
                    answer = self._core.answer(request, who, self._clock())
            except RemoteProtocolError:
                self._peers.blame(asker)
                raise
            if answer is not None:
                if request.type in _WRITES:
                    # What is acknowledged is there after a kill, too.
                    await self._keeper.wait_written()
                await stream.send_message(encode(answer))
            self._on_asker(asker)

    async def _put(self, stream: Stream, request: Request, who: Asker) -> Response | None:
        """Store a record. Of one with many signed values, a few are checked at a time, and each of
        them costs as much as a frame for nothing.
        """
        record = request.record
        if record is None or not record.key.startswith(VALUE):
            return self._core.answer(request, who, self._clock())
        is_held = True
        for some in in_turns(decode_envelopes(record.value)):
            await stream.connection.charge("dht", len(some))
            is_held = self._core.put_values(record.key, some, who, self._clock()) and is_held
        return Response(request.type, request.key, record if is_held else None)
