"""The original's Kademlia on a node, in both roles."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Final

import trio

from lattica.compat.kad.store import OriginalStore
from lattica.compat.kad.values import put_message
from lattica.dht.client.questions import Questions
from lattica.dht.client.ties import Ties
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Record,
    Request,
    Response,
    decode_request,
    decode_response,
    encode,
)
from lattica.nat.base.errors import IncompleteReadError, LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.addresses.told_names import ToldNames
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_K: Final = 20
_MOST: Final = 64
"""Peers that are asked for one key."""
_TIMEOUT: Final = 2.0
_IDLE: Final = 60.0
_MAX_STREAMS: Final = 512
MAX_VALUE: Final = 15 * 1024
"""Bytes of a record that fit what rust-libp2p takes."""


class OriginalKad:
    """Serves records and providers to nodes of the original, and asks them. For the trio thread.

    Args:
        protocol: the network's name, which is that of its Kademlia, too.
        peers: connected nodes of the original, as they are now.
    """

    def __init__(
        self,
        host: Host,
        ties: Ties,
        protocol: str,
        peers: Callable[[], Collection[PeerId]],
        clock: Callable[[], float] = time.time,
        names: ToldNames | None = None,
    ) -> None:
        self.store = OriginalStore()
        self._host = host
        self._ties = ties
        self._protocol = protocol
        self._peers = peers
        self._clock = clock
        self._questions = Questions(ties, protocol, names)
        host.handle(protocol, self._serve, owner=self, limit=_MAX_STREAMS)

    def __str__(self) -> str:
        return "Kademlia of the original"

    def close(self) -> None:
        """Serve no more."""
        self._host.unhandle(self._protocol, owner=self)
        self._questions.close()

    # --- serving ---

    async def _serve(self, stream: Stream) -> None:
        while True:
            with trio.move_on_after(_IDLE) as scope:
                try:
                    data = await stream.receive_message(MAX_MESSAGE)
                except IncompleteReadError:
                    return
            if scope.cancelled_caught:
                return
            answer = self._answer(decode_request(data), stream.peer_id)
            if answer is not None:
                await stream.send_message(encode(answer))

    def _answer(self, request: Request, asker: PeerId) -> Response | None:
        kind, key, now = request.type, request.key, self._clock()
        if kind is MessageType.PUT_VALUE and request.record is not None:
            self.store.put(key, request.record.value, asker, now)
            return Response(kind, key, request.record)
        if kind is MessageType.ADD_PROVIDER:
            for each in request.providers:
                if each.peer_id == asker:
                    self.store.provide(key, each, now)
            return None
        if kind is MessageType.PING:
            return Response(kind)
        closer = self._nearest(key, but=asker)
        if kind is MessageType.GET_VALUE:
            value = self.store.get(key, now)
            record = None if value is None else Record(key, value)
            return Response(kind, key, record, closer)
        if kind is MessageType.GET_PROVIDERS:
            return Response(kind, key, None, closer, self.store.providers(key, now))
        if kind is MessageType.FIND_NODE:
            return Response(kind, key, closer=closer)
        return None

    def _nearest(self, key: bytes, but: PeerId | None = None) -> tuple[Contact, ...]:
        target = key_of(key)
        known = [
            Contact.of(peer, self._ties.addresses_of(peer)) for peer in self._peers() if peer != but
        ]
        return tuple(sorted(known, key=lambda each: each.key ^ target)[:_K])

    # --- asking ---

    async def put(self, key: bytes, value: bytes, expires: float) -> int:
        """Give a record to the nearest nodes; returns how many have it besides this one.

        It is kept here, too, and given to nodes that come later by :meth:`hand_over`.

        Raises:
            RemoteProtocolError: it is no record of the original.
        """
        now = self._clock()
        self.store.put(key, value, self._host.peer_id, now)
        if len(value) > MAX_VALUE:
            logger.warning("a value of %d bytes is too large for the original", len(value))
            return 0
        held = 0

        async def give(peer: Contact) -> None:
            nonlocal held
            held += await self._give(peer.peer_id, key, value, expires - now)

        async with trio.open_nursery() as nursery:
            for contact in self._nearest(key):
                nursery.start_soon(give, contact)
        return held

    async def hand_over(self, peer: PeerId) -> None:
        """Give a node that has come what this one has stored and provides."""
        now = self._clock()
        for key, value, expires in self.store.of(self._host.peer_id, now):
            if len(value) <= MAX_VALUE:
                await self._give(peer, key, value, expires - now)
        for key in self.store.provided_by(self._host.peer_id):
            await self._ask(Contact.of(peer), self._announcement(key))

    def _announcement(self, key: bytes) -> Request:
        addrs = [split_peer(addr)[0] for addr in self._host.addrs]
        own = Contact.of(self._host.peer_id, addrs)
        return Request(MessageType.ADD_PROVIDER, key, providers=(own,))

    async def _give(self, peer: PeerId, key: bytes, value: bytes, ttl: float) -> bool:
        message = put_message(key, value, self._host.peer_id.to_bytes(), ttl)
        try:
            with trio.fail_after(_TIMEOUT):
                stream = await self._host.open_stream(peer, self._protocol)
                async with stream:
                    await stream.send_message(message)
                    data = await stream.receive_message(MAX_MESSAGE)
                    decode_response(data, Request(MessageType.PUT_VALUE, key))
        except (LatticaError, trio.TooSlowError, TimeoutError) as error:
            logger.debug("a record is not taken: %s peer=%s", error, peer)
            return False
        return True

    async def get(self, key: bytes) -> list[bytes]:
        """All records of a key that there are: here, and at the nodes nearest to it."""
        own = self.store.get(key, self._clock())
        found = [] if own is None else [own]

        def take(response: Response) -> None:
            if response.record is not None:
                found.append(response.record.value)

        await self._look_up(Request(MessageType.GET_VALUE, key), take)
        return found

    async def provide(self, key: bytes) -> None:
        """Say that this node provides a key."""
        request = self._announcement(key)
        self.store.provide(key, request.providers[0], self._clock())
        async with trio.open_nursery() as nursery:
            for contact in self._nearest(key):
                nursery.start_soon(self._ask, contact, request)

    async def providers(self, key: bytes) -> set[PeerId]:
        """Who provides a key."""
        found = {each.peer_id for each in self.store.providers(key, self._clock())}

        def take(response: Response) -> None:
            found.update(each.peer_id for each in response.providers)

        await self._look_up(Request(MessageType.GET_PROVIDERS, key), take)
        return found

    async def _look_up(self, request: Request, take: Callable[[Response], object]) -> None:
        """Ask the nearest nodes, and those nearer that they name, until all of them were asked."""
        target = key_of(request.key)
        known = {each.peer_id: each for each in self._nearest(request.key)}
        asked = {self._host.peer_id}

        async def ask(contact: Contact) -> None:
            response = await self._ask(contact, request)
            if response is not None:
                take(response)
                for each in response.closer:
                    known.setdefault(each.peer_id, each)

        while len(asked) < _MOST:
            nearest = sorted(known.values(), key=lambda each: each.key ^ target)[:_K]
            todo = [each for each in nearest if each.peer_id not in asked]
            if not todo:
                return
            asked.update(each.peer_id for each in todo)
            async with trio.open_nursery() as nursery:
                for contact in todo:
                    nursery.start_soon(ask, contact)

    async def _ask(self, contact: Contact, request: Request) -> Response | None:
        try:
            return (await self._questions.ask(contact, [request], _TIMEOUT))[0]
        except (LatticaError, TimeoutError) as error:
            logger.debug("no answer about a key: %s peer=%s", error, contact.peer_id)
            return None
