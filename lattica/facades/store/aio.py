"""Replicated documents for asyncio: `AsyncLattica.documents`.

Every call is made in the node's thread. What is written is on disk when a call has been awaited.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from lattica.facades.closable import Closable, OnlyAsyncWith, OnlyWith, other_facade
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import AsyncSubscription, EventsCore

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


class AsyncStore:
    """The documents of this node, for asyncio; see :class:`lattica.crdt.store.store.Store`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    async def open(
        self,
        document: str,
        *,
        capability: bytes | None = None,
        timeout: float = 30.0,
        must_exist: bool = False,
    ) -> AsyncDocument:
        """Open a document by name or ID; see :meth:`Store.open`."""

        async def call() -> SharedDocument:
            return await self._node.store.open(
                document, capability=capability, timeout=timeout, must_exist=must_exist
            )

        return AsyncDocument(self._bridge, await self._bridge.acall(call))

    async def create(
        self,
        name: str,
        *,
        mode: Mode | None = None,
        owners: Sequence[PeerId | str | bytes] | None = None,
        kinds: Sequence[Kind] = (),
        limits: Limits | None = None,
        recovery: Recovery | None = None,
        is_sealed: bool = False,
    ) -> AsyncDocument:
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

        return AsyncDocument(self._bridge, await self._bridge.acall(call))

    async def documents(self) -> list[StoredDocument]:
        """The documents whose files are here, by name."""
        return await self._bridge.acall_plain(lambda: self._node.store.documents())


class AsyncDocument(OnlyAsyncWith):
    """A replicated document; see
    :class:`~lattica.crdt.store.shared_document.SharedDocument`. For any number of loops.
    """

    def __init__(self, bridge: Bridge[Any], document: SharedDocument) -> None:
        self._bridge = bridge
        self._document = document
        self.registers = AsyncRegisters(self._run, document)
        """Names and their values, like a dictionary."""
        self.presence = AsyncPresence(self._run, document)
        """Who is there now, and what each says of itself."""

    async def _run(self, function: Callable[[], T]) -> T:
        return await self._bridge.acall_plain(function)

    async def call(self, function: Callable[[SharedDocument], T]) -> T:
        """What a function of the node's document gives. It is called in the node's thread: nobody
        else reads or writes meanwhile, and the node does nothing else, so it is not to wait. So
        :mod:`lattica.crdt.uses` are used: `await document.call(lambda each:
        WorkQueue(each).take())`.
        """
        return await self._run(lambda: function(self._document))

    def __repr__(self) -> str:
        return f"<AsyncDocument {self.name!r} {self.id}>"

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

    async def is_open(self) -> bool:
        """Whether it is replicated."""
        return await self._run(lambda: self._document.is_open)

    async def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have the document open."""
        return await self._run(lambda: self._document.peers)

    async def author(self) -> bytes:
        """The session key that writes here."""
        return await self._run(lambda: self._document.author)

    async def root(self) -> bytes:
        """The hash that names the whole state."""
        return await self._bridge.acall(self._document.root_in_turns)

    def counter(self, name: str) -> AsyncCounter:
        """A number that all add to."""
        return AsyncCounter(self._run, self._document, name)

    def set(self, name: str) -> AsyncSet:
        """Elements that are put in and taken out; who puts in wins."""
        return AsyncSet(self._run, self._document, name)

    def claims(self, name: str) -> AsyncClaims:
        """Items that one at a time holds."""
        return AsyncClaims(self._run, self._document, name)

    def text(self, name: str) -> AsyncText:
        """A text that all edit."""
        return AsyncText(self._run, self._document, name)

    def list(self, name: str) -> AsyncList:
        """A list that all edit."""
        return AsyncList(self._run, self._document, name)

    async def write(self, *writes: Write) -> tuple[Change, ...]:
        """Write all of these, or none; see :meth:`Document.write`."""
        return await self._run(lambda: self._document.write(*writes))

    async def grant(
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

        return await self._run(grant)

    async def revoke(self, peer: PeerId | str | bytes) -> int:
        """Take back all rights of a peer; see :meth:`Document.revoke`."""
        return await self._run(lambda: self._document.revoke(peer))

    async def rights(self) -> Sequence[Right]:
        """The rights that were given, by peer."""
        return await self._run(self._document.rights)

    async def can_read(self) -> bool:
        """Whether all that is here can be read; see :attr:`Document.can_read`."""
        return await self._run(lambda: self._document.can_read)

    async def read_keys(self) -> Sequence[SealedKey]:
        """The read keys of a sealed document, by time."""
        return await self._run(self._document.read_keys)

    async def rotate_key(self, *, history: bool = True) -> bytes:
        """Put another read key in place; see :meth:`Document.rotate_key`."""
        return await self._run(lambda: self._document.rotate_key(history=history))

    async def present(self, capability: bytes) -> None:
        """Use a capability that was handed over; see :meth:`Document.present`."""
        await self._run(lambda: self._document.present(capability))

    async def owners(self) -> Sequence[Owner]:
        """Who owns the document; see :meth:`Document.owners`."""
        return await self._run(self._document.owners)

    async def appoint(
        self,
        successor: PeerId | str | bytes,
        *,
        instead_of: PeerId | str | bytes | None = None,
        by: Identity | None = None,
    ) -> bytes:
        """Appoint an owner in the place of one who has contradicted himself; see
        :meth:`Document.appoint`.
        """
        return await self._run(
            lambda: self._document.appoint(successor, instead_of=instead_of, by=by)
        )

    async def sign_appointment(self, appointment: bytes, *, by: Identity | None = None) -> bytes:
        """An appointment with one signature more; see :meth:`Document.sign_appointment`."""
        return await self._run(lambda: self._document.sign_appointment(appointment, by=by))

    async def read_appointment(self, appointment: bytes) -> OwnerAppointment:
        """What an appointment says; see :meth:`Document.read_appointment`."""
        return await self._run(lambda: self._document.read_appointment(appointment))

    async def take_office(self) -> None:
        """Own the document by an appointment that was presented; see
        :meth:`Document.take_office`.
        """
        await self._run(self._document.take_office)

    async def peer_of(self, author: bytes) -> PeerId | None:
        """Whose session key this is; None if nothing by it is here."""
        return await self._run(lambda: self._document.peer_of(author))

    async def proof(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """The proof of what the state says at a place; see :meth:`Document.proof`."""
        return await self._bridge.acall(
            partial(self._document.proof_in_turns, query, is_signed=is_signed)
        )

    async def statement(self, of: bytes = b"") -> SignedStatement:
        """What this store says that its state is, signed; see :meth:`Document.statement`."""
        return await self._run(lambda: self._document.statement(of))

    async def snapshot(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """What another replica can begin with; see :meth:`Document.snapshot`."""
        return await self._bridge.acall(self._document.snapshot_in_turns, others)

    async def countersign(self, parts: Sequence[bytes]) -> SignedStatement:
        """Sign somebody else's snapshot; see :meth:`Document.countersign`."""
        return await self._run(lambda: self._document.countersign(parts))

    async def receive_snapshot(
        self,
        parts: Iterable[bytes],
        signers: Collection[PeerId | str | bytes] = (),
        needed: int = 1,
    ) -> None:
        """Take a snapshot that others have signed; see :meth:`Document.receive_snapshot`."""
        await self._bridge.acall(self._document.receive_snapshot_in_turns, parts, signers, needed)

    async def entries(self) -> Sequence[LogEntry]:
        """What was written, as far as it is admitted here, by time."""
        return await self._run(lambda: [*self._document.entries()])

    async def erase(self, *entries: LogEntry | bytes | str) -> int:
        """Have what entries say go, everywhere and for good; see :meth:`Document.erase`."""
        return await self._run(lambda: self._document.erase(*entries))

    async def prune(self, grace: float = 7 * 86_400) -> int:
        """Drop entries that the state does not need; see :meth:`Document.prune`."""
        return await self._bridge.acall(self._document.prune_in_turns, grace)

    async def why_not_pruned(self) -> str:
        """Why nothing was dropped; see :meth:`Document.why_not_pruned`."""
        return await self._run(self._document.why_not_pruned)

    async def synced(self, *, timeout: float | None = None, peers: int = 1) -> tuple[PeerId, ...]:
        """Wait until all that `peers` peers have is here; see :meth:`SharedDocument.synced`."""
        limit = math.inf if timeout is None else timeout
        return await self._bridge.acall(partial(self._document.synced, timeout=limit, peers=peers))

    def changes(self) -> AsyncChanges:
        """What changes from now on; see :meth:`SharedDocument.changes`. Close it, or use `with`."""
        return AsyncChanges(self._bridge, self._document)

    async def close(self) -> None:
        """Replicate no more, and close the file; any number of times."""
        await self._run(self._document.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Part:
    """Something of a document, whose calls are made in the node's thread."""

    def __init__(
        self,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        document: SharedDocument,
        name: str = "",
    ) -> None:
        self._run = run
        self._document = document
        self.name = name

    def __getitem__(self, _: object) -> NoReturn:
        raise self._awaited()

    def __setitem__(self, _: object, __: object) -> NoReturn:
        raise self._awaited()

    def __delitem__(self, _: object) -> NoReturn:
        raise self._awaited()

    def __contains__(self, _: object) -> NoReturn:
        raise self._awaited()

    def __iter__(self) -> NoReturn:
        raise self._awaited()

    def __len__(self) -> NoReturn:
        raise self._awaited()

    def _awaited(self) -> TypeError:
        name = type(self).__name__
        methods = ", ".join(each for each in vars(type(self)) if not each.startswith("_"))
        return TypeError(
            f"{name} has methods that are awaited ({methods}); [], `in`, len() and loops are for "
            f"{other_facade(name)}, of a Lattica"
        )


class AsyncRegisters(_Part):
    """Names and their values; a value is plain data, None is none."""

    async def get(self, name: str) -> Plain:
        """The value of a name; None if it has none."""
        value: Plain = await self._run(lambda: self._document.registers.get(name))
        return value

    async def set(self, name: str, value: Plain) -> None:
        """Write a value; None deletes."""
        await self._run(lambda: self._document.registers.__setitem__(name, value))

    async def delete(self, name: str) -> None:
        """Raises KeyError where there is no value."""
        await self._run(lambda: self._document.registers.__delitem__(name))

    async def items(self) -> list[tuple[str, Plain]]:
        """Names that have a value, and that, in order."""
        found: list[tuple[str, Plain]] = await self._run(
            lambda: list(self._document.registers.items())
        )
        return found

    async def below(self, prefix: str) -> list[tuple[str, Plain]]:
        """What stands at names that begin with a prefix, by the rest of the name, in order."""
        found: list[tuple[str, Plain]] = await self._run(
            lambda: self._document.registers.below(prefix)
        )
        return found

    async def conflicts(self, name: str) -> list[Sibling]:
        """What was written by authors who did not know of each other."""
        found: list[Sibling] = await self._run(lambda: self._document.registers.conflicts(name))
        return found


class AsyncCounter(_Part):
    """A number that all add to."""

    async def value(self) -> int:
        """The sum over all that was added."""
        value: int = await self._run(lambda: self._document.counter(self.name).value)
        return value

    async def add(self, amount: int = 1) -> None:
        """Add a number, which may be negative."""
        await self._run(lambda: self._document.counter(self.name).add(amount))


class AsyncSet(_Part):
    """Elements, which are plain data."""

    async def add(self, element: Plain) -> None:
        """Put an element in."""
        await self._run(lambda: self._document.set(self.name).add(element))

    async def discard(self, element: Plain) -> None:
        """Take an element out, if it is in."""
        await self._run(lambda: self._document.set(self.name).discard(element))

    async def has(self, element: Plain) -> bool:
        """Whether an element is in the set."""
        found: bool = await self._run(lambda: element in self._document.set(self.name))
        return found

    async def elements(self) -> list[Plain]:
        """All of them, in order of their encodings."""
        found: list[Plain] = await self._run(lambda: list(self._document.set(self.name)))
        return found


class AsyncClaims(_Part):
    """Items, which are plain data, and who holds them."""

    async def claim(self, item: Plain, term: float) -> bool:
        """Claim an item for `term` seconds; see :meth:`Claims.claim`."""
        held: bool = await self._run(lambda: self._document.claims(self.name).claim(item, term))
        return held

    async def release(self, item: Plain) -> None:
        """Give an item back, if this store holds it."""
        await self._run(lambda: self._document.claims(self.name).release(item))

    async def is_held(self, item: Plain) -> bool:
        """Whether this store holds an item, as far as is known here."""
        held: bool = await self._run(lambda: self._document.claims(self.name).is_held(item))
        return held

    async def holder(self, item: Plain) -> Holder | None:
        """Who holds an item now, as far as is known here."""
        found: Holder | None = await self._run(
            lambda: self._document.claims(self.name).holder(item)
        )
        return found

    async def held(self) -> Sequence[tuple[Plain, Holder]]:
        """The items that somebody holds now."""
        found: Sequence[tuple[Plain, Holder]] = await self._run(
            lambda: self._document.claims(self.name).held()
        )
        return found


class AsyncText(_Part):
    """A text that all edit; see :class:`~lattica.crdt.document.editing.Text`."""

    async def value(self) -> str:
        """All of it."""
        text: str = await self._run(lambda: str(self._document.text(self.name)))
        return text

    async def insert(self, index: int, text: str) -> None:
        """Put a text in before the code point at an index."""
        await self._run(lambda: self._document.text(self.name).insert(index, text))

    async def append(self, text: str) -> None:
        """Put a text in at the end."""
        await self._run(lambda: self._document.text(self.name).append(text))

    async def delete(self, start: int, stop: int) -> None:
        """Take out the code points from one index up to another one."""
        await self._run(lambda: self._document.text(self.name).delete(start, stop))

    async def replace(self, start: int, stop: int, text: str) -> None:
        """Put a text in place of the code points from one index up to another one."""
        await self._run(lambda: self._document.text(self.name).replace(start, stop, text))


class AsyncList(_Part):
    """A list that all edit; see :class:`~lattica.crdt.document.editing.ReplicatedList`."""

    async def elements(self) -> list[Plain]:
        """All of them."""
        values: list[Plain] = await self._run(lambda: list(self._document.list(self.name)))
        return values

    async def insert(self, index: int, *values: Plain) -> None:
        """Put values in before the element at an index."""
        await self._run(lambda: self._document.list(self.name).insert(index, *values))

    async def append(self, *values: Plain) -> None:
        """Put values in at the end."""
        await self._run(lambda: self._document.list(self.name).append(*values))

    async def replace(self, start: int, stop: int, values: Sequence[Plain]) -> None:
        """Put values in place of the elements from one index up to another one."""
        await self._run(lambda: self._document.list(self.name).replace(start, stop, values))


class AsyncPresence(_Part):
    """Who has the document open and says so; see
    :class:`~lattica.crdt.store.presence.Presence`.
    """

    async def set(self, value: Plain = None) -> None:
        """Be there, and say something of oneself, until :meth:`clear`."""
        await self._run(lambda: self._document.presence.set(value))

    async def clear(self) -> None:
        """Be gone."""
        await self._run(self._document.presence.clear)

    async def peers(self) -> dict[PeerId, Plain]:
        """Who is there, and what each has said last."""
        found: dict[PeerId, Plain] = await self._run(self._document.presence.peers)
        return found


class AsyncChanges(AsyncSubscription["DocumentChange"], Closable, OnlyWith):
    """A document's changes: `async for change in changes`; it ends with the document, or `close`.

    The subscription begins when it is made, not when it is first awaited.
    """

    over = "this subscription to changes is closed"

    def __init__(self, bridge: Bridge[Any], document: SharedDocument) -> None:
        core: EventsCore[DocumentChange] = EventsCore()
        super().__init__(bridge, core, bridge.submit_plain(core.open, document.changes))
