"""Exchanges about one document with its peers: what each lacks is sent, by a snapshot if need be.

What is opened here and what others open is spoken in the same way; whom to ask, and when again, is
:class:`~lattica.crdt.store.replication.replicator.Replicator`'s.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from lattica.crdt.access.appointment import MAX_APPOINTED
from lattica.crdt.store.replication.joining import Joining, SnapshotSource
from lattica.crdt.store.replication.patience import Patience
from lattica.crdt.store.replication.wire import (
    PATIENCE,
    expect_end,
    open_about,
    receive,
    receive_bytes,
    send_bytes,
)
from lattica.crdt.sync.heads import Head
from lattica.crdt.sync.messages import Entries, Fork, Hello, Purpose
from lattica.crdt.sync.session import SyncCounts, SyncSession, SyncSource
from lattica.nat.base.errors import IncompleteReadError, LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Source
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_EXCHANGE_TIME: Final = 120.0
"""Seconds that an exchange may take, and one more for each so many bytes of it."""
_LEAST_RATE: Final = 16 * 1024
_MOST_SAID: Final = MAX_APPOINTED + 1
"""Messages to who owned a document: the forks because of which it was replaced, and an entry."""


class ReplicatedSource(SyncSource, SnapshotSource, Protocol):
    """A document, as it is kept in step."""

    @property
    def is_owner(self) -> bool:
        """Whether this peer owns it, as far as is known here."""
        ...

    def may_come_to_read(self, peer: PeerId) -> bool:
        """Whether nothing is known here of any right of a peer."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """What has come of an exchange."""

    needs_snapshot: bool
    """Whether the peer has something that is to be had as a snapshot alone."""
    has_heard: bool
    """Whether the peer has told of anything: who only listens does not."""


class Exchanges:
    """Speaks exchanges about one document.

    Args:
        host: the node.
        source: the document.
        doc_id: its ID.
        max_snapshot: bytes of the largest one that is taken.
        admitting: in which what a peer has sent is admitted.
        on_move: a peer has sent news, or has taken some.
    """

    def __init__(
        self,
        host: Host,
        source: ReplicatedSource,
        doc_id: bytes,
        max_snapshot: int,
        rng: random.Random,
        *,
        admitting: Callable[[PeerId], AbstractContextManager[None]],
        on_move: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._source = source
        self._doc_id = doc_id
        self._patience = Patience(rng)
        self._joining = Joining(source, max_snapshot)
        self._admitting = admitting
        self._on_move = on_move
        self.counts = SyncCounts()
        """Of all exchanges together."""

    async def begin(self, peer: PeerId, may_go_on: Callable[[Source], bool]) -> bool | None:
        """An exchange that is opened here, with what is had as a snapshot alone.

        A peer of whose right nothing is known here is told nothing, and heard all the same: what
        gives it one may be among what it has.

        Returns whether another one is due, after a snapshot or now that the peer may be told; None:
        the peer does not have the document, is not to have it, or `may_go_on` says no to where it
        is. Raises what :meth:`open` and :meth:`converse` do.
        """
        opened = await self._ask(peer, Purpose.SYNC)
        if opened is None:
            return None
        stream, hello = opened
        nonce = hello.nonce
        async with stream:
            tells = self._source.may_pull(peer, hello.capability)
            if not tells and not self._source.may_come_to_read(peer):
                stream.reset()
                return None
            if tells and not may_go_on(stream.source):
                return None
            ended = await self.converse(stream, nonce, is_opener=True, tells=tells)
        if ended.needs_snapshot:
            try:
                await self._ask_for_state(peer, self._joining.take)
            except (LatticaError, TimeoutError) as error:
                peer_log.log(
                    logger,
                    logging.INFO,
                    peer,
                    "what a peer has is to be had as a snapshot alone, and that was not taken "
                    "document=%s peer=%s: %s",
                    self._doc_id.hex(),
                    peer,
                    error,
                )
                raise
        if not tells:
            return self._source.may_pull(peer, hello.capability) or None
        if self._joining.is_to_be_asked(peer):
            await self._ask_for_state(peer, self._joining.confirm)
        return ended.needs_snapshot

    async def _ask_for_state(self, peer: PeerId, ask: Callable[[Stream], Awaitable[None]]) -> None:
        """Whoever is asked is told nothing."""
        opened = await self._ask(peer, Purpose.SNAPSHOT)
        if opened is not None:
            async with opened[0] as stream:
                await ask(stream)

    async def open(self, peer: PeerId, purpose: Purpose) -> tuple[Stream, bytes] | None:
        """A stream about the document, and its nonce; None if the peer does not have it, or is not
        to have it. Raises what :func:`open_about` does.
        """
        opened = await self._ask(peer, purpose)
        if opened is None:
            return None
        stream, hello = opened
        if not self._source.may_pull(peer, hello.capability):
            stream.reset()
            return None
        return stream, hello.nonce

    async def _ask(self, peer: PeerId, purpose: Purpose) -> tuple[Stream, Hello] | None:
        """A stream about the document, and what the peer has said, whoever it is."""
        shown = self._source.capability
        return await open_about(self._host, peer, self._doc_id, purpose, shown, self._hear_standing)

    async def _hear_standing(self, stream: Stream) -> None:
        """Who owns the document, as far as it knows, and is told that it is not here, may hear by
        whom it is owned now. Raises what :meth:`open` does, and StoreError.
        """
        for _ in range(_MOST_SAID if self._source.is_owner else 0):
            try:
                message = await receive(stream)
            except IncompleteReadError:
                return
            with self._admitting(stream.peer_id):
                match message:
                    case Fork(proof):
                        self._source.receive_fork(proof)
                    case Entries(chain):
                        self._source.receive(chain, stream.source)
                    case _:
                        raise RemoteProtocolError("a message that says nothing of owners")

    async def converse(
        self, stream: Stream, nonce: bytes, *, is_opener: bool, tells: bool = True
    ) -> Ended:
        """An exchange, as :class:`SyncSession` has it."""
        peer = stream.peer_id
        session = SyncSession(
            self._source,
            stream.source,
            nonce,
            is_opener=is_opener,
            may_ask=self._may_ask,
            tells=tells,
        )
        latest = trio.current_time() + _EXCHANGE_TIME
        try:
            if is_opener:
                await self._speak(stream, session, latest)
            while not session.is_over:
                data = await receive_bytes(stream, min(PATIENCE, _left(session.counts, latest)))
                if self._take(session, data, peer) and not session.is_over:
                    await self._speak(stream, session, latest)
            # What was sent last has been taken, too, when the other side says that it is done.
            await stream.send_eof()
            await expect_end(stream)
        finally:
            if not session.needs_snapshot:
                self._patience.asked(session.asked, self._source.head_index, trio.current_time())
            self._sum(session.counts)
        return Ended(session.needs_snapshot, session.has_heard)

    async def give_snapshot(self, stream: Stream) -> bool:
        """Give a peer that has asked for it a snapshot, or confirm one; whether it has taken one:
        then another exchange is due.
        """
        return await self._joining.give(stream)

    def begin_anew(self) -> None:
        """Ask for every author again: rights have changed."""
        self._patience.begin_anew()

    def _may_ask(self, theirs: Head) -> bool:
        ours = self._source.head_index.get(theirs.author)
        return self._patience.may_ask(theirs, ours, trio.current_time())

    async def _speak(self, stream: Stream, session: SyncSession, latest: float) -> None:
        for message in session.turn():
            await send_bytes(stream, message, _left(session.counts, latest))
            self._on_move(stream.peer_id)

    def _take(self, session: SyncSession, data: bytes, peer: PeerId) -> bool:
        known = session.counts.news
        try:
            with self._admitting(peer):
                return session.take(data)
        finally:
            if session.counts.news > known:
                self._on_move(peer)

    def _sum(self, counts: SyncCounts) -> None:
        for name in SyncCounts.__slots__:
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))


def _left(counts: SyncCounts, latest: float) -> float:
    """Seconds that an exchange has left, which was to end then if it brought nothing."""
    brought = (counts.sent_bytes + counts.received_bytes) / _LEAST_RATE
    return max(0.0, latest + brought - trio.current_time())
