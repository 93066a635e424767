"""Replicated documents for threads: `Lattica.documents`.

Every call is made in the node's thread. What is written is on disk when the call returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lattica.facades.closable import Closable, OnlyWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import BlockingSubscription, EventsCore

if TYPE_CHECKING:
    from lattica.crdt.access.capability import Level
    from lattica.crdt.base.canonical import Plain
    from lattica.crdt.document import LogEntry, Owner, OwnerAppointment, Right, SealedKey
    from lattica.crdt.entries.genesis import Genesis, Limits, Mode, Recovery
    from lattica.crdt.entries.header import Kind
    from lattica.crdt.proofs.query import Query
    from lattica.crdt.proofs.statement import SignedStatement
    from lattica.crdt.store.changes import DocumentChange
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.crdt.store.store import StoredDocument
    from lattica.crdt.types.cell import Sibling
    from lattica.crdt.types.payloads import Write
    from lattica.crdt.types.state import Change, Holder
    from lattica.nat.base.keys.identity import Identity, PeerId
    from lattica.node import Node

T = TypeVar("T")


class BlockingStore:
    """The documents of this node, for threads; see :class:`lattica.crdt.store.store.Store`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    def open(
        self,
        document: str,
        *,
        capability: bytes | None = None,
        timeout: float = 30.0,
        must_exist: bool = False,
    ) -> BlockingDocument:
        """Open a document by name or ID; see :meth:`Store.open`."""

        async def call() -> SharedDocument:
            return await self._node.store.open(
                document, capability=capability, timeout=timeout, must_exist=must_exist
            )

        return BlockingDocument(self._bridge, self._bridge.call(call))

    def create(
        self,
        name: str,
        *,
        mode: Mode | None = None,
        owners: Sequence[PeerId | str | bytes] | None = None,
        kinds: Sequence[Kind] = (),
        limits: Limits | None = None,
        recovery: Recovery | None = None,
        is_sealed: bool = False,
    ) -> BlockingDocument:
        """Make a document, and open it; see :meth:`Store.create`."""

        async def call() -> SharedDocument:
            given = {} if mode is None else {"mode": mode}
            return await self._node.store.create(
                name,
                owners=owners,
                kinds=kinds,
                limits=limits,
                recovery=recovery,
                is_sealed=is_sealed,
                **given,
            )

        return BlockingDocument(self._bridge, self._bridge.call(call))

    def documents(self) -> list[StoredDocument]:
        """The documents whose files are here, by name."""
        return self._bridge.call_plain(lambda: self._node.store.documents())


class BlockingDocument(Closable, OnlyWith):
    """A replicated document; see
    :class:`~lattica.crdt.store.shared_document.SharedDocument`. For any number of threads.
    """

    def __init__(self, bridge: Bridge[Any], document: SharedDocument) -> None:
        self._bridge = bridge
        self._document = document
        self.registers = BlockingRegisters(self._run, document)
        """Names and their values, like a dictionary."""
        self.presence = BlockingPresence(self._run, document)
        """Who is there now, and what each says of itself."""

    def _run(self, function: Callable[[], T]) -> T:
        return self._bridge.call_plain(function)

    def call(self, function: Callable[[SharedDocument], T]) -> T:
        """What a function of the node's document gives. It is called in the node's thread: nobody
        else reads or writes meanwhile, and the node does nothing else, so it is not to wait.
        """
        return self._run(lambda: function(self._document))

    def __repr__(self) -> str:
        return f"<BlockingDocument {self.name!r} {self.id}>"

    @property
    def id(self) -> str:
        """The document's ID: others open it by this."""
        return self._document.id

    @property
    def name(self) -> str:
        """The document's name, for people."""
        return self._document.name

    @property
    def genesis(self) -> Genesis:
        """What the document is."""
        return self._document.genesis

    @property
    def is_open(self) -> bool:
        """Whether it is replicated."""
        return self._run(lambda: self._document.is_open)

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have the document open."""
        return self._run(lambda: self._document.peers)

    @property
    def author(self) -> bytes:
        """The session key that writes here."""
        return self._run(lambda: self._document.author)

    @property
    def root(self) -> bytes:
        """The hash that names the whole state."""
        return self._bridge.call(self._document.root_in_turns)

    def counter(self, name: str) -> BlockingCounter:
        """A number that all add to."""
        return BlockingCounter(self._run, self._document, name)

    def set(self, name: str) -> BlockingSet:
        """Elements that are put in and taken out; who puts in wins."""
        return BlockingSet(self._run, self._document, name)

    def claims(self, name: str) -> BlockingClaims:
        """Items that one at a time holds."""
        return BlockingClaims(self._run, self._document, name)

    def text(self, name: str) -> BlockingText:
        """A text that all edit."""
        return BlockingText(self._run, self._document, name)

    def list(self, name: str) -> BlockingList:
        """A list that all edit."""
        return BlockingList(self._run, self._document, name)

    def write(self, *writes: Write) -> tuple[Change, ...]:
        """Write all of these, or none; see :meth:`Document.write`."""
        return self._run(lambda: self._document.write(*writes))

    def grant(
        self,
        peer: PeerId | str | bytes,
        level: Level | None = None,
        *,
        prefix: str = "",
        lasts: float | None = None,
        depth: int = 0,
    ) -> bytes:
        """Give a peer a right, by default to write; see :meth:`Document.grant`."""

        def grant() -> bytes:
            given = () if level is None else (level,)
            return self._document.grant(peer, *given, prefix=prefix, lasts=lasts, depth=depth)

        return self._run(grant)

    def revoke(self, peer: PeerId | str | bytes) -> int:
        """Take back all rights of a peer; see :meth:`Document.revoke`."""
        return self._run(lambda: self._document.revoke(peer))

    def rights(self) -> Sequence[Right]:
        """The rights that were given, by peer."""
        return self._run(self._document.rights)

    @property
    def can_read(self) -> bool:
        """Whether all that is here can be read; see :attr:`Document.can_read`."""
        return self._run(lambda: self._document.can_read)

    def read_keys(self) -> Sequence[SealedKey]:
        """The read keys of a sealed document, by time."""
        return self._run(self._document.read_keys)

    def rotate_key(self, *, history: bool = True) -> bytes:
        """Put another read key in place; see :meth:`Document.rotate_key`."""
        return self._run(lambda: self._document.rotate_key(history=history))

    def present(self, capability: bytes) -> None:
        """Use a capability that was handed over; see :meth:`Document.present`."""
        self._run(lambda: self._document.present(capability))

    def owners(self) -> Sequence[Owner]:
        """Who owns the document; see :meth:`Document.owners`."""
        return self._run(self._document.owners)

    def appoint(
        self,
        successor: PeerId | str | bytes,
        *,
        instead_of: PeerId | str | bytes | None = None,
        by: Identity | None = None,
    ) -> bytes:
        """Appoint an owner in the place of one who has contradicted himself; see
        :meth:`Document.appoint`.
        """
        return self._run(lambda: self._document.appoint(successor, instead_of=instead_of, by=by))

    def sign_appointment(self, appointment: bytes, *, by: Identity | None = None) -> bytes:
        """An appointment with one signature more; see :meth:`Document.sign_appointment`."""
        return self._run(lambda: self._document.sign_appointment(appointment, by=by))

    def read_appointment(self, appointment: bytes) -> OwnerAppointment:
        """What an appointment says; see :meth:`Document.read_appointment`."""
        return self._run(lambda: self._document.read_appointment(appointment))

    def take_office(self) -> None:
        """Own the document by an appointment that was presented; see
        :meth:`Document.take_office`.
        """
        self._run(self._document.take_office)

    def peer_of(self, author: bytes) -> PeerId | None:
        """Whose session key this is; None if nothing by it is here."""
        return self._run(lambda: self._document.peer_of(author))

    def proof(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """The proof of what the state says at a place; see :meth:`Document.proof`."""
        return self._bridge.call(partial(self._document.proof_in_turns, query, is_signed=is_signed))

    def statement(self, of: bytes = b"") -> SignedStatement:
        """What this store says that its state is, signed; see :meth:`Document.statement`."""
        return self._run(lambda: self._document.statement(of))

    def snapshot(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """What another replica can begin with; see :meth:`Document.snapshot`."""
        return self._bridge.call(self._document.snapshot_in_turns, others)

    def countersign(self, parts: Sequence[bytes]) -> SignedStatement:
        """Sign somebody else's snapshot; see :meth:`Document.countersign`."""
        return self._run(lambda: self._document.countersign(parts))

    def receive_snapshot(
        self,
        parts: Iterable[bytes],
        signers: Collection[PeerId | str | bytes] = (),
        needed: int = 1,
    ) -> None:
        """Take a snapshot that others have signed; see :meth:`Document.receive_snapshot`."""
        self._bridge.call(self._document.receive_snapshot_in_turns, parts, signers, needed)

    def entries(self) -> Sequence[LogEntry]:
        """What was written, as far as it is admitted here, by time."""
        return self._run(lambda: [*self._document.entries()])

    def erase(self, *entries: LogEntry | bytes | str) -> int:
        """Have what entries say go, everywhere and for good; see :meth:`Document.erase`."""
        return self._run(lambda: self._document.erase(*entries))

    def prune(self, grace: float = 7 * 86_400) -> int:
        """Drop entries that the state does not need; see :meth:`Document.prune`."""
        return self._bridge.call(self._document.prune_in_turns, grace)

    def why_not_pruned(self) -> str:
        """Why nothing was dropped; see :meth:`Document.why_not_pruned`."""
        return self._run(self._document.why_not_pruned)

    def synced(self, *, timeout: float | None = None, peers: int = 1) -> tuple[PeerId, ...]:
        """Wait until all that `peers` peers have is here; see :meth:`SharedDocument.synced`."""
        limit = math.inf if timeout is None else timeout
        return self._bridge.call(partial(self._document.synced, timeout=limit, peers=peers))

    def changes(self) -> BlockingChanges:
        """What changes from now on; see :meth:`SharedDocument.changes`. Close it, or use `with`."""
        return BlockingChanges(self._bridge, self._document)

    def close(self) -> None:
        """Replicate no more, and close the file; any number of times."""
        self._run(self._document.close)


class _Part:
    """Something of a document, whose calls are made in the node's thread."""

    def __init__(
        self, run: Callable[[Callable[[], Any]], Any], document: SharedDocument, name: str = ""
    ) -> None:
        self._run = run
        self._document = document
        self.name = name


class BlockingRegisters(_Part, MutableMapping[str, "Plain"]):
    """`document.registers["name"] = value`; a value is plain data, None is none."""

    def __getitem__(self, name: str) -> Plain:
        value: Plain = self._run(lambda: self._document.registers[name])
        return value

    def __setitem__(self, name: str, value: Plain) -> None:
        self._run(lambda: self._document.registers.__setitem__(name, value))

    def __delitem__(self, name: str) -> None:
        self._run(lambda: self._document.registers.__delitem__(name))

    def __iter__(self) -> Iterator[str]:
        names: list[str] = self._run(lambda: list(self._document.registers))
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def below(self, prefix: str) -> list[tuple[str, Plain]]:
        """What stands at names that begin with a prefix, by the rest of the name, in order."""
        found: list[tuple[str, Plain]] = self._run(lambda: self._document.registers.below(prefix))
        return found

    def conflicts(self, name: str) -> list[Sibling]:
        """What was written by authors who did not know of each other."""
        found: list[Sibling] = self._run(lambda: self._document.registers.conflicts(name))
        return found


class BlockingCounter(_Part):
    """A number that all add to."""

    @property
    def value(self) -> int:
        """The sum over all that was added."""
        value: int = self._run(lambda: self._document.counter(self.name).value)
        return value

    def add(self, amount: int = 1) -> None:
        """Add a number, which may be negative."""
        self._run(lambda: self._document.counter(self.name).add(amount))


class BlockingSet(_Part):
    """Elements, which are plain data."""

    def add(self, element: Plain) -> None:
        """Put an element in."""
        self._run(lambda: self._document.set(self.name).add(element))

    def discard(self, element: Plain) -> None:
        """Take an element out, if it is in."""
        self._run(lambda: self._document.set(self.name).discard(element))

    def __contains__(self, element: Plain) -> bool:
        found: bool = self._run(lambda: element in self._document.set(self.name))
        return found

    def __iter__(self) -> Iterator[Plain]:
        elements: list[Plain] = self._run(lambda: list(self._document.set(self.name)))
        return iter(elements)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class BlockingClaims(_Part):
    """Items, which are plain data, and who holds them."""

    def claim(self, item: Plain, term: float) -> bool:
        """Claim an item for `term` seconds; see :meth:`Claims.claim`."""
        held: bool = self._run(lambda: self._document.claims(self.name).claim(item, term))
        return held

    def release(self, item: Plain) -> None:
        """Give an item back, if this store holds it."""
        self._run(lambda: self._document.claims(self.name).release(item))

    def is_held(self, item: Plain) -> bool:
        """Whether this store holds an item, as far as is known here."""
        held: bool = self._run(lambda: self._document.claims(self.name).is_held(item))
        return held

    def holder(self, item: Plain) -> Holder | None:
        """Who holds an item now, as far as is known here."""
        found: Holder | None = self._run(lambda: self._document.claims(self.name).holder(item))
        return found

    def held(self) -> Sequence[tuple[Plain, Holder]]:
        """The items that somebody holds now."""
        found: Sequence[tuple[Plain, Holder]] = self._run(
            lambda: self._document.claims(self.name).held()
        )
        return found


class BlockingText(_Part):
    """A text that all edit; see :class:`~lattica.crdt.document.editing.Text`."""

    def __str__(self) -> str:
        text: str = self._run(lambda: str(self._document.text(self.name)))
        return text

    def __len__(self) -> int:
        return len(str(self))

    def insert(self, index: int, text: str) -> None:
        """Put a text in before the code point at an index."""
        self._run(lambda: self._document.text(self.name).insert(index, text))

    def append(self, text: str) -> None:
        """Put a text in at the end."""
        self._run(lambda: self._document.text(self.name).append(text))

    def delete(self, start: int, stop: int) -> None:
        """Take out the code points from one index up to another one."""
        self._run(lambda: self._document.text(self.name).delete(start, stop))

    def replace(self, start: int, stop: int, text: str) -> None:
        """Put a text in place of the code points from one index up to another one."""
        self._run(lambda: self._document.text(self.name).replace(start, stop, text))


class BlockingList(_Part):
    """A list that all edit; see :class:`~lattica.crdt.document.editing.ReplicatedList`."""

    def __iter__(self) -> Iterator[Plain]:
        values: list[Plain] = self._run(lambda: list(self._document.list(self.name)))
        return iter(values)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: int) -> Plain:
        value: Plain = self._run(lambda: self._document.list(self.name)[index])
        return value

    def __setitem__(self, index: int, value: Plain) -> None:
        self._run(lambda: self._document.list(self.name).__setitem__(index, value))

    def __delitem__(self, index: int) -> None:
        self._run(lambda: self._document.list(self.name).__delitem__(index))

    def insert(self, index: int, *values: Plain) -> None:
        """Put values in before the element at an index."""
        self._run(lambda: self._document.list(self.name).insert(index, *values))

    def append(self, *values: Plain) -> None:
        """Put values in at the end."""
        self._run(lambda: self._document.list(self.name).append(*values))

    def replace(self, start: int, stop: int, values: Sequence[Plain]) -> None:
        """Put values in place of the elements from one index up to another one."""
        self._run(lambda: self._document.list(self.name).replace(start, stop, values))


class BlockingPresence(_Part):
    """Who has the document open and says so; see
    :class:`~lattica.crdt.store.presence.Presence`.
    """

    def set(self, value: Plain = None) -> None:
        """Be there, and say something of oneself, until :meth:`clear`."""
        self._run(lambda: self._document.presence.set(value))

    def clear(self) -> None:
        """Be gone."""
        self._run(self._document.presence.clear)

    def peers(self) -> dict[PeerId, Plain]:
        """Who is there, and what each has said last."""
        found: dict[PeerId, Plain] = self._run(self._document.presence.peers)
        return found


class BlockingChanges(BlockingSubscription["DocumentChange"]):
    """A document's changes, as a blocking iterator; it ends with the document, or `close`."""

    over = "this subscription to changes is closed"

    def __init__(self, bridge: Bridge[Any], document: SharedDocument) -> None:
        core: EventsCore[DocumentChange] = EventsCore()
        super().__init__(bridge, core)
        bridge.call_plain(core.open, document.changes)
