"""A document that is replicated with every peer that has it open."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import trio

from lattica.crdt.access.keyring import NoReadKeyError
from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.config import StoreConfig
from lattica.crdt.document import Document, Received
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.proofs.query import Query
from lattica.crdt.proofs.statement import SignedStatement
from lattica.crdt.store.changes import ChangeStream
from lattica.crdt.store.presence import Presence
from lattica.crdt.store.replication.replicator import Replicator
from lattica.crdt.store.surroundings import Discovery, Topic
from lattica.crdt.store.turns import in_turns
from lattica.crdt.sync.presence import MAX_VALUE, PRESENCE_KIND
from lattica.crdt.sync.session import SyncCounts
from lattica.crdt.types.state import Change
from lattica.nat.base.checks import check_count, check_timeout
from lattica.nat.base.errors import (
    AccessDeniedError,
    LatticaError,
    LocalProtocolError,
    RemoteProtocolError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)


class SharedDocument(Document):
    """A :class:`~lattica.crdt.document.Document` of a node. Made by :class:`Store`.

    What is written is on disk when the call returns, and on its way to the peers that have the
    document; they need not be there. Two who write at the same time are shown by
    `registers.conflicts`, and never lose anything of each other's. For the trio thread only.
    """

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        identity: Identity,
        host: Host,
        config: StoreConfig,
        *,
        topic: Topic | None = None,
        discovery: Discovery | None = None,
        replica: Replica | None = None,
    ) -> None:
        super().__init__(path, genesis, identity, replica=replica)
        self._tending_interval = config.sync_interval
        self._streams: weakref.WeakSet[ChangeStream] = weakref.WeakSet()
        self.is_open = True
        self._replicator = Replicator(
            host,
            self,
            genesis.doc_id,
            config,
            on_presence=lambda statement: self.presence.take(statement),
            statements=lambda: self.presence.statements(),
            advance=self.advance,
            topic=topic,
            discovery=discovery,
        )
        self.presence = Presence(
            identity,
            genesis.doc_id,
            config.presence_interval,
            may_tell=self._may_be_here,
            tell=self._replicator.tell_presence,
            seal=self._sealed_presence,
            unseal=self._opened_presence,
            on_change=self._tell_presence,
        )
        """Who is there now, and what each says of itself."""
        self._scope = trio.CancelScope()
        self._are_rights_new = trio.Event()
        self._owners_told = self.owners()
        self._is_rebuilt = trio.Event()
        """Set when the state is to be resolved anew for those who listen."""

    def __repr__(self) -> str:
        state = f"{len(self.peers)} peers" if self.is_open else "closed"
        return f"<SharedDocument {self.genesis.name!r} {self.id} ({state})>"

    @property
    def id(self) -> str:
        """The document's ID, as text: others open it by this."""
        return self.genesis.doc_id.hex()

    @property
    def name(self) -> str:
        """The document's name, for people."""
        return self.genesis.name

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have the document open."""
        return self._replicator.peers

    @property
    def sync_counts(self) -> SyncCounts:
        """What all exchanges together have cost and brought."""
        return self._replicator.exchanges.counts

    def changes(self) -> ChangeStream:
        """What changes from now on: `with doc.changes() as changes: async for change in changes`.

        A place that changes again before the listener comes to it is told once, so that the last
        state is never missed and a slow listener costs nobody anything. Ends with the document.
        """
        self._check_open()
        self._resolved.anew()  # changes are told of what has been resolved
        stream = ChangeStream()
        self._streams.add(stream)
        return stream

    async def synced(self, *, timeout: float = math.inf, peers: int = 1) -> tuple[PeerId, ...]:
        """Wait until all that `peers` peers had at the time of the call is here, and all that was
        here is there; whoever else is connected and has the document is waited for, too: for a
        minute, and not if for 10 s it neither sends news nor takes any.

        What has come is resolved in turns until then, so that reading it does not take long.

        Returns these peers. What a replica does not take from another one (because it is from the
        future, or beyond a budget) does not count.

        Raises:
            TimeoutError: after `timeout` seconds; with how many peers have the document.
            LocalProtocolError: the document is closed.
        """
        self._check_open()
        check_count("peers", peers, 0)
        seconds = check_timeout(timeout)
        with trio.move_on_after(seconds):
            found = await self._replicator.synced(peers)
            await in_turns(self.resolving())
            return found
        hint = ""
        if not self.peers and self.genesis.mode is not Mode.OPEN:
            hint = ": nobody has, or says so to a peer that has no right to read, or has it no more"
        raise TimeoutError(
            f"not in step with {peers} peers within {seconds:g} s; {len(self.peers)} connected "
            f"peers have {self.name!r} open{hint}"
        )

    async def root_in_turns(self) -> bytes:
        """As :attr:`root`, while the node and other tasks go on: of a large document, or it stands
        for as long. What is written meanwhile may be in it or not.
        """
        return await in_turns(self.naming())

    async def proof_in_turns(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """As :meth:`proof`, while others go on; see :meth:`root_in_turns`."""
        return await in_turns(self.proving(query, is_signed=is_signed))

    async def prune_in_turns(self, grace: float = 7 * 86_400) -> int:
        """As :meth:`prune`, while the node and other tasks go on; whatever is written meanwhile,
        and if it is cancelled, too, the state is the same.
        """
        return await in_turns(self.pruning(grace))

    async def snapshot_in_turns(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """As :meth:`snapshot`, of what is here at the beginning, while others go on."""
        return await in_turns(self.making_snapshot(others))

    async def receive_snapshot_in_turns(
        self,
        parts: Iterable[bytes],
        signers: Collection[PeerId | str | bytes] = (),
        needed: int = 1,
    ) -> None:
        """As :meth:`receive_snapshot`, while others go on. It is taken in one turn: if this is
        cancelled, all or nothing of it is here.
        """
        await in_turns(self.receiving_snapshot(parts, signers, needed))

    def present(self, capability: bytes) -> None:
        """As of a document without a node; peers that said it was not for this one are asked again,
        by what is shown now.
        """
        super().present(capability)
        self._replicator.recheck()

    def _check_open(self) -> None:
        if not self.is_open:
            raise LocalProtocolError(f"{self.name!r} is closed")

    def _on_outcome(self, outcome: Outcome, received: Received) -> None:
        if received.is_rebuilt:
            self._is_rebuilt.set()
        else:
            self._tell_changes(received.changes)
        self._replicator.tell(outcome)
        has_rights = self._replica.log.rights is not None
        if outcome.says_rights or (has_rights and (outcome.withdrawn or outcome.forks)):
            self._replicator.recheck()
            self._are_rights_new.set()
        if outcome.has_other_owners:
            self._tell_owners()
        if outcome.erased or outcome.erased_here or outcome.restored:
            for stream in self._streams:
                stream.tell_erased()

    def _tell_owners(self) -> None:
        told, self._owners_told = self._owners_told, self.owners()
        was_owner = self._replica.identity.peer_id in (each.peer for each in told)
        for each in self._owners_told:
            if each.is_frozen and each not in told:
                logger.warning(
                    "an owner of a document has contradicted itself, as after a backup was "
                    "restored: what only owners do has no effect where it does it, until an owner "
                    "is appointed in its place document=%s owner=%s",
                    self.id,
                    each.peer,
                )
            elif each.instead_of is not None and each not in told:
                logger.warning(
                    "a document has another owner document=%s owner=%s instead_of=%s",
                    self.id,
                    each.peer,
                    each.instead_of,
                )
        if was_owner and not self.is_owner:
            logger.warning(
                "this peer does not own a document any more: another owner was appointed in its "
                "place document=%s",
                self.id,
            )
        for stream in self._streams:
            stream.tell_owners()

    def _tell_changes(self, changes: Collection[Change], *, is_rebuilt: bool = False) -> None:
        if changes or is_rebuilt:
            for stream in self._streams:
                stream.tell(changes, is_rebuilt=is_rebuilt)

    def _on_snapshot(self) -> None:
        self._tell_changes((), is_rebuilt=True)
        if self._replica.log.rights is None:
            self._replicator.compare_with_all()
        else:
            self._replicator.recheck()

    def _sealed_presence(self, value: Plain) -> Plain:
        """What this node says of itself, for readers only if the document is sealed."""
        keyring = self._replica.keyring
        if keyring is None or value is None:
            return value
        if keyring.current is None:
            raise AccessDeniedError("what a peer says of itself is for readers, and it is none")
        own = self._replica.identity.public_key.data
        return keyring.current.seal(own, PRESENCE_KIND, encode(value))

    def _opened_presence(self, identity: bytes, value: Plain) -> Plain:
        """What somebody says of himself; None if it cannot be read here."""
        keyring = self._replica.keyring
        if keyring is None:
            return value
        try:
            sealed = value if isinstance(value, bytes) else b""
            said = keyring.open_sealed(identity, PRESENCE_KIND, sealed)
            return None if said is None else decode(said, MAX_VALUE)
        except (RemoteProtocolError, NoReadKeyError):
            return None

    def _may_be_here(self, identity: bytes) -> bool:
        rights = self._replica.log.rights
        return rights is None or rights.may_pull(identity, self.now_ms)

    def _tell_presence(self, peer: PeerId) -> None:
        for stream in self._streams:
            stream.tell_presence(peer)

    # For the store.

    @property
    def replicator(self) -> Replicator:
        """What keeps it in step."""
        return self._replicator

    async def run(self) -> None:
        """Replicate until closed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.presence.run)
                nursery.start_soon(self._resolve_for_listeners)
                if self.genesis.is_sealed or self.genesis.can_be_recovered:
                    nursery.start_soon(self._tend_rights_now_and_then)
                await self._replicator.run()

    async def _resolve_for_listeners(self) -> None:
        """Whoever reads when he is told that all may be another one reads what is resolved."""
        while True:
            await self._is_rebuilt.wait()
            self._is_rebuilt = trio.Event()
            if self._streams:
                try:
                    await in_turns(self.resolving())
                except LatticaError as error:
                    logger.error("a document cannot be resolved document=%s: %s", self.id, error)
                self._tell_changes((), is_rebuilt=True)

    async def _tend_rights_now_and_then(self) -> None:
        """As an owner: what others have given, and what has ended, has the read key follow. And
        who was appointed an owner is one as soon as that can be.
        """
        while True:
            # Not within what brought the rights, which is not told to all yet.
            with trio.move_on_after(self._tending_interval):
                await self._are_rights_new.wait()
            self._are_rights_new = trio.Event()
            try:
                self.take_office()
                self.tend_keys()
            except LatticaError as error:
                logger.error("rights cannot be written document=%s: %s", self.id, error)

    def close(self) -> None:
        """Replicate no more, and close the file; any number of times. What listens ends."""
        if not self.is_open:
            return
        self.is_open = False
        self._scope.cancel()
        self._replicator.stop()
        for stream in self._streams:
            stream.close()
        super().close()
