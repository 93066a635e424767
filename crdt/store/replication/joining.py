"""How a replica begins with a snapshot where history was pruned, and who confirms it: over trio.

All of a snapshot is verified but one thing: that what was left out of it does not matter. That is
believed to the peer who has signed it until another one, who has the same entries, says that he
has come to the same state; if he has not, what he has is taken, too, and nothing that is here gets
lost by it. So it is if he goes on having other entries, and exchanges do not change that: what was
left out may have had others count. So one honest peer is enough to undo what any number of others
left out.

What was pruned here may be needed again when something that had replaced it is withdrawn, and what
a peer has may have come to it later. So where anything was pruned each peer is asked what it comes
to: once, and again when something here may not take effect any more, when a snapshot was taken
here, or by that peer of this one. The more often that was in vain, the rarer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Protocol

import trio

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.base.turns import Turns
from lattica.crdt.compaction.snapshot import Snapshot, SnapshotReader
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.keys.identities import identity_key
from lattica.crdt.proofs.statement import SignedStatement, Statement, read_statement
from lattica.crdt.store.replication.wire import receive, send_bytes
from lattica.crdt.store.turns import in_turns
from lattica.crdt.sync.messages import TURN, Part, StateMessage, Turn, encode_part, encode_state
from lattica.nat.base.errors import (
    IncompleteReadError,
    LocalProtocolError,
    RemoteProtocolError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.mux.stream import Stream

logger = logging.getLogger(__name__)

_MAX_STATEMENT: Final = 8192
_MAX_PEERS: Final = 4096
"""Of whom it is known what they were asked."""


class SnapshotSource(Protocol):
    """A document, as far as it is needed to give and take snapshots."""

    genesis: Genesis
    given_by: PeerId | None
    """As :attr:`Document.given_by`."""

    @property
    def losses(self) -> int:
        """As :meth:`Document.losses`."""
        ...

    def heads(self) -> Mapping[bytes, tuple[int, bytes]]:
        """How many entries of each author are here, and the ID of the newest."""
        ...

    def stating(self) -> Turns[SignedStatement]:
        """What this store says that its state is."""
        ...

    def making_snapshot(self) -> Turns[tuple[bytes, ...]]:
        """What another replica can begin with."""
        ...

    def adopting(self, read: Snapshot) -> Turns[None]:
        """Take a snapshot that is signed by enough. Raises RemoteProtocolError and StoreError."""
        ...


class Joining:
    """Snapshots of one document, given and taken.

    Args:
        max_bytes: that a snapshot of another peer may have.
    """

    def __init__(self, source: SnapshotSource, max_bytes: int) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._asked: dict[PeerId, int] = {}
        """Who was asked for a second opinion, and had one; and what :attr:`losses` was then."""
        self._tries: dict[PeerId, int] = {}
        """Exchanges after which a peer was to be asked, since it had come to the same."""
        self._lock = trio.Lock()

    def is_to_be_asked(self, peer: PeerId) -> bool:
        """Whether this peer, with whom there was an exchange, is to be asked now: it can confirm
        what another one has given, or may have what is lost.
        """
        is_known = peer in self._asked or not self._is_given_by_other(peer)
        if is_known and self._source.losses <= self._asked.get(peer, 0):
            return False
        tries = self._tries.get(peer, 0) + 1
        _note(self._tries, peer, tries)
        return tries & (tries - 1) == 0

    def _is_given_by_other(self, peer: PeerId) -> bool:
        return self._source.given_by not in (None, peer)

    async def give(self, stream: Stream) -> bool:
        """Say what state was come to, and give a snapshot if asked for one; whether it was. Raises
        as :func:`~lattica.crdt.store.replication.wire.receive`.
        """
        try:
            state = await in_turns(self._source.stating())
        except LocalProtocolError as error:
            # There are texts, and nothing to merge them with.
            logger.info(
                "no snapshot is given document=%s peer=%s: %s",
                self._source.genesis.doc_id.hex(),
                stream.peer_id,
                error,
            )
            stream.reset(f"{error}")
            return False
        await send_bytes(stream, encode_state(encode(state.plain)))
        try:
            asked = await receive(stream)
        except IncompleteReadError:
            return False  # that was all the peer wanted to know
        if not isinstance(asked, Turn):
            raise RemoteProtocolError("a message that asks for no snapshot")
        for part in await in_turns(self._source.making_snapshot()):
            await send_bytes(stream, encode_part(part))
        await send_bytes(stream, TURN)
        # It had come to another state, and may have more than is here.
        self._asked.pop(stream.peer_id, None)
        return True

    async def take(self, stream: Stream) -> None:
        """Take a snapshot of the peer at the other end.

        Raises what streams do, RemoteProtocolError for one that is none or brings nothing,
        StoreError, and TimeoutError.
        """
        if self._lock.locked():
            async with self._lock:
                return  # another peer's has come, and may have been enough
        async with self._lock:
            before = self._source.heads()
            await self._state(stream)
            if self._source.given_by is None:
                # In the file before it is here: whoever is stopped then has it confirmed later.
                self._source.given_by = stream.peer_id
            await self._receive(stream)
            if self._source.heads() == before:
                raise RemoteProtocolError("a snapshot that brings nothing")
            self._source.given_by = stream.peer_id
            self._asked = {stream.peer_id: self._source.losses}
            self._tries = {}

    async def confirm(self, stream: Stream) -> None:
        """Compare with a peer what another one's snapshot has come to. Raises as :meth:`take`."""
        peer = stream.peer_id
        theirs = await self._state(stream)
        ours = (await in_turns(self._source.stating())).statement
        if theirs.heads != ours.heads:
            if not self._is_given_by_other(peer) or self._tries.get(peer, 0) < 2:
                return  # something is under way; a later exchange asks again
            what = "a peer goes on having other entries than another one's snapshot has"
        elif not ours.root or theirs.root == ours.root:
            # Who cannot read it all does not know what it comes to.
            self._source.given_by = None
            self._note_same(peer)
            return
        elif not theirs.root:
            self._note_same(peer)
            return
        else:
            what = "peers come to different states from the same entries"
        if self._lock.locked():
            return  # another peer's comes
        if theirs.heads == ours.heads:
            self._note_asked(peer)  # be what it has refused
        logger.warning(
            "%s; what both have is put together document=%s peers=%s,%s",
            what,
            self._source.genesis.doc_id.hex(),
            self._source.given_by or "this one",
            peer,
        )
        async with self._lock:
            await self._receive(stream)
            if theirs.root:
                self._source.given_by = None
            self._note_asked(peer)

    def _note_same(self, peer: PeerId) -> None:
        self._tries.pop(peer, None)
        self._note_asked(peer)

    def _note_asked(self, peer: PeerId) -> None:
        _note(self._asked, peer, self._source.losses)

    async def _state(self, stream: Stream) -> Statement:
        match await receive(stream):
            case StateMessage(data):
                genesis = self._source.genesis
                signed = read_statement(
                    decode(data, _MAX_STATEMENT), genesis.doc_id, needs_root=not genesis.is_sealed
                )
            case _:
                raise RemoteProtocolError("another message where a state was asked for")
        if signed.certificate.identity != identity_key(stream.peer_id):
            raise RemoteProtocolError("somebody else's word for a state")
        return signed.statement

    async def _receive(self, stream: Stream) -> None:
        await send_bytes(stream, TURN)
        reader = SnapshotReader(self._source.genesis.doc_id, self._max_bytes)
        while True:
            match await receive(stream):
                case Part(part):
                    await in_turns(reader.taking(part))
                case Turn():
                    break
                case _:
                    raise RemoteProtocolError("a message that is no part of a snapshot")
        read = await in_turns(reader.finishing([identity_key(stream.peer_id)]))
        await in_turns(self._source.adopting(read))


def _note(known: dict[PeerId, int], peer: PeerId, number: int) -> None:
    """Note a number of a peer, and forget the oldest ones if there are too many."""
    known.pop(peer, None)
    known[peer] = number
    while len(known) > _MAX_PEERS:
        del known[next(iter(known))]
