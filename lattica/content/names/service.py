"""The names of this node: answered to whoever asks, and put into the DHT."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.content.errors import TicketError
from lattica.content.names.messages import (
    MAX_QUESTION,
    NAMES,
    NameQuestion,
    decode_question,
)
from lattica.content.names.record import (
    NAME_TTL,
    NameRecord,
    NameTarget,
    name_key,
    seal_name,
    target_data,
)
from lattica.content.swarm.dht_finder import AGAIN_FIRST, AGAIN_LIMIT, dht_finder
from lattica.nat.base.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    LatticaError,
    StreamResetError,
)
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.backoff import pause_after

if TYPE_CHECKING:
    from lattica.content.manifest.cid import Cid
    from lattica.nat.mux.stream import Stream
    from lattica.node import Node

logger = logging.getLogger(__name__)

_MAX_STREAMS = 1024
_MAX_STREAMS_PER_PEER = 16
_QUESTION_TIMEOUT = 10.0
"""Seconds that an asker has to ask."""
_LAST_WORD = 5.0
"""Seconds for which the DHT is told that a name is withdrawn although the node is ending."""
_NAMES: dict[Node, Names] = {}
"""Of each node that has some."""


class Names:
    """What this node's names lead to.

    As long as it is open it answers `/lattica/names/1.0.0`, keeps the records in the DHT (where the
    node takes part in one, or has bootstrap peers), and signs them anew before they expire.

    Args:
        nursery: for what goes on in the background.
        clock: seconds since 1970.

    Raises :class:`~lattica.errors.LocalProtocolError`: the node has another one.
    """

    def __init__(
        self, node: Node, nursery: trio.Nursery, clock: Callable[[], float] = time.time
    ) -> None:
        self._node = node
        self._clock = clock
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._rng = random.Random()
        self._records: dict[str, NameRecord] = {}
        self._unsaid: dict[str, tuple[NameTarget | None, float]] = {}
        """What the DHT is being told, by name: where it leads, and until when that is valid."""
        self._changed = trio.Event()
        self._streams: Counter[PeerId] = Counter()
        node.handle(NAMES, self._serve, owner=self, cancel_when_gone=True)
        _NAMES[node] = self
        nursery.start_soon(self._sign_again)

    def __str__(self) -> str:
        return "names"

    def close(self) -> None:
        """Answer no more, and sign no more. What is in the DHT stays until it expires."""
        self._node.unhandle(NAMES, owner=self)
        self._scope.cancel()
        _NAMES.pop(self._node, None)
        self._records.clear()
        self._tell()

    @property
    def watchers(self) -> int:
        """Peers' questions that are open: who asks, and who waits for something newer."""
        return self._streams.total()

    def publish(self, name: str, target: NameTarget) -> NameRecord:
        """Let a name lead here from now on; who watches it hears of it. Returns the record.

        It is put into the DHT in the background; what comes of that is in the log.

        Raises:
            TicketError: it can be no name.
        """
        now = self._clock()
        known = self._records.get(name)
        least = known.sequence + 1 if known is not None else 0
        record = seal_name(
            self._node.identity,
            name,
            target,
            sequence=max(int(now * 1000), least),
            expires=now + NAME_TTL,
        )
        self._records[name] = record
        self._tell()
        self._tell_dht(name, target, record.expires)
        return record

    def withdraw(self, cid: Cid) -> None:
        """Have the names that lead to this lead nowhere.

        The DHT is told in the background that they are withdrawn, for as long as what was said of
        them before could be found.
        """
        led = [record for record in self._records.values() if record.target.cid == cid]
        for record in led:
            del self._records[record.name]
            self._tell_dht(record.name, None, record.expires)
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def newer(self, name: str, sequence: int) -> NameRecord | None:
        """Wait for a record of a name with a higher sequence; None: there is no such name, or no
        longer."""
        while (record := self._records.get(name)) is not None and record.sequence <= sequence:
            await self._changed.wait()
        return record

    def publish_if_possible(self, name: str, target: NameTarget) -> NameRecord | None:
        """:meth:`publish`, where a publication may be called what no name can be."""
        try:
            return self.publish(name, target)
        except TicketError as error:
            logger.warning("it cannot be fetched by its name: %s", error)
            return None

    def _tell_dht(self, name: str, target: NameTarget | None, expires: float) -> None:
        """Have the DHT know where a name leads; None: nowhere any more."""
        if dht_finder(self._node) is None:
            return
        is_being_said = name in self._unsaid
        self._unsaid[name] = target, expires
        if not is_being_said:
            self._nursery.start_soon(self._say, name)

    async def _say(self, name: str) -> None:
        """One after the other: the DHT takes for newest what it was told last."""
        said, is_said = None, False
        try:
            while said is not self._unsaid[name]:
                said = self._unsaid[name]
                await self._put_until_kept(name, *said)
            is_said = True
        finally:
            target, expires = self._unsaid.pop(name)
            if target is None and not is_said:
                with trio.move_on_after(_LAST_WORD, shield=True):
                    await self._put(name, target, expires)

    async def _put_until_kept(self, name: str, target: NameTarget | None, expires: float) -> None:
        """Until there is something else to be said, or it is over: a node that starts before its
        network is there has nobody to tell at first."""
        said, failures, level = self._unsaid[name], 0, logging.WARNING
        while not await self._put(name, target, expires, level) and self._clock() < expires:
            failures, level = failures + 1, logging.DEBUG
            with trio.move_on_after(pause_after(failures, AGAIN_FIRST, AGAIN_LIMIT, self._rng)):
                while said is self._unsaid[name]:
                    await self._changed.wait()
            if said is not self._unsaid[name]:
                return

    async def _put(
        self, name: str, target: NameTarget | None, expires: float, level: int = logging.WARNING
    ) -> bool:
        """Whether the DHT has kept it."""
        key, ttl = name_key(self._node.peer_id, name), max(expires - self._clock(), 1.0)
        try:
            held = await self._node.dht.put(key, target_data(target), ttl=ttl)
        except LatticaError as error:
            text = "the DHT does not know yet where the name %s leads now: %s"
            logger.log(level, text, name, error)
            return False
        logger.info("%d peers of the DHT know where the name %s leads now", held, name)
        return True

    async def _sign_again(self) -> None:
        with self._scope:
            while True:
                await trio.sleep(NAME_TTL / 3)
                for name, record in list(self._records.items()):
                    self.publish(name, record.target)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer_id
        if self._streams[peer] >= _MAX_STREAMS_PER_PEER or self._streams.total() >= _MAX_STREAMS:
            stream.reset("too many questions for names at once")
            return
        self._streams[peer] += 1
        try:
            with trio.move_on_after(_QUESTION_TIMEOUT) as scope:
                question = decode_question(await stream.receive_message(MAX_QUESTION))
            if not scope.cancelled_caught:
                await self._answer(stream, question)
        except (ConnectionClosedError, StreamResetError, IncompleteReadError) as error:
            logger.debug("%s asks for no name any more: %s", peer, error)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _answer(self, stream: Stream, question: NameQuestion) -> None:
        told = question.sequence
        while (record := await self.newer(question.name, told)) is not None:
            await stream.send_message(record.envelope)
            told = record.sequence
        await stream.send_message(b"")


def names_of(node: Node) -> Names | None:
    """The names of a node, as long as they are open; None: it has none."""
    return _NAMES.get(node)


@asynccontextmanager
async def open_names(node: Node) -> AsyncIterator[Names]:
    """The names of a node, for the time of a block."""
    async with trio.open_nursery() as nursery:
        names = Names(node, nursery)
        try:
            yield names
        finally:
            names.close()
            nursery.cancel_scope.cancel()
