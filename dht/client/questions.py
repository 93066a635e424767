"""Questions to peers over streams, which are kept for the next question."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import trio

from lattica.dht.client.ties import Ties
from lattica.dht.client.told import DialBudget
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Request,
    Response,
    decode_response,
    encode,
)
from lattica.nat.base.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    NotConnectedError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.addresses.told_names import ToldNames

IDLE = 20.0
"""Seconds that a stream is kept for the next question; servers wait for longer."""
_MAX_IDLE = 256
"""Streams that are kept in all."""
_MAX_IDLE_PER_PEER = 4
_STALE = (StreamResetError, StreamClosedError, ConnectionClosedError, IncompleteReadError)


class Questions:
    """Asks one question of a peer, or several in a row on one stream."""

    def __init__(self, ties: Ties, protocol: str, names: ToldNames | None = None) -> None:
        self._ties = ties
        self._names = names or ToldNames(trio.current_time)
        self._protocol = protocol
        self._budget = DialBudget(trio.current_time)
        self._idle: OrderedDict[PeerId, list[tuple[Stream, float]]] = OrderedDict()
        self._count = 0

    async def ask(
        self,
        contact: Contact,
        requests: Sequence[Request],
        timeout: float,
        *,
        dial: bool = True,
    ) -> list[Response | None]:
        """The answers; None for requests that have none. Without `dial` only a peer is asked that
        is connected.

        Raises:
            RemoteProtocolError: an answer is none.
            UnsupportedProtocolError: the peer does not serve the protocol.
            TimeoutError: after `timeout` seconds.

        Raises what :meth:`Host.open_stream` does, too.
        """
        with trio.move_on_after(timeout):
            kept = self._take_idle(contact.peer_id)
            if kept is not None:
                try:
                    return await self._converse(kept, requests)
                except _STALE:
                    pass  # the peer has closed it meanwhile
            return await self._converse(await self._open(contact, dial), requests)
        raise TimeoutError(f"no answer from {contact.peer_id} within {timeout:g} s")

    async def _open(self, contact: Contact, dial: bool) -> Stream:
        peer_id = contact.peer_id
        addrs: Sequence[Multiaddr] | None = () if dial else None
        if dial and contact.addrs and not self._ties.is_connected(peer_id):
            addrs = self._budget.allowed(contact.addrs)
            addrs = addrs or self._budget.allowed(await self._names.resolved(contact.addrs))
            if not addrs:
                raise NotConnectedError(f"{peer_id} is not dialed now: its host has been too often")
        return await self._ties.open_stream(peer_id, addrs, self._protocol)

    async def _converse(self, stream: Stream, requests: Sequence[Request]) -> list[Response | None]:
        try:
            await stream.send_all(b"".join(encode_length_prefixed(encode(r)) for r in requests))
            answers: list[Response | None] = []
            for request in requests:
                if request.type is MessageType.ADD_PROVIDER:
                    answers.append(None)
                else:
                    data = await stream.receive_message(MAX_MESSAGE)
                    answers.append(decode_response(data, request))
        except BaseException:
            stream.reset("the question was given up")
            raise
        self._keep(stream)
        return answers

    # --- idle streams ---

    def _take_idle(self, peer_id: PeerId) -> Stream | None:
        streams = self._idle.get(peer_id, [])
        while streams and self._ties.is_connected(peer_id):
            stream, since = streams.pop()
            self._count -= 1
            if trio.current_time() - since < IDLE and not stream.is_superseded:
                return stream
            stream.close()
        return None

    def _keep(self, stream: Stream) -> None:
        streams = self._idle.setdefault(stream.peer_id, [])
        self._idle.move_to_end(stream.peer_id)
        if len(streams) >= _MAX_IDLE_PER_PEER:
            stream.close()
            return
        streams.append((stream, trio.current_time()))
        self._count += 1
        while self._count > _MAX_IDLE:
            _, oldest = self._idle.popitem(last=False)
            self._close(oldest)

    def sweep(self) -> None:
        """Close what has been idle for too long; to be called now and then."""
        oldest = trio.current_time() - IDLE
        for peer_id, streams in tuple(self._idle.items()):
            stale = [entry for entry in streams if entry[1] <= oldest]
            self._close(stale)
            streams[:] = [entry for entry in streams if entry[1] > oldest]
            if not streams:
                del self._idle[peer_id]

    def close(self) -> None:
        """Close all idle streams."""
        while self._idle:
            self._close(self._idle.popitem()[1])

    def _close(self, entries: Sequence[tuple[Stream, float]]) -> None:
        for stream, _ in entries:
            self._count -= 1
            stream.close()
