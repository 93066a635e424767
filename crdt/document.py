"""A document at one store: what users read and write of it, over its log and its file.

There is no network here: chains come in and go out as bytes. Calls block for as long as the disk
does, and belong to one thread. What is written is on disk when the call returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from lattica.crdt.access.capability import Level, issue
from lattica.crdt.access.key_entry import KeyEntry, decode_key_entry
from lattica.crdt.access.keyring import Keyring, NoReadKeyError
from lattica.crdt.access.revocation import Revocation
from lattica.crdt.access.rights import Rights
from lattica.crdt.canonical import encode
from lattica.crdt.compaction.adoption import check_authors, check_limits, replay
from lattica.crdt.compaction.history import History, Point
from lattica.crdt.compaction.snapshot import (
    Snapshot,
    body_digest,
    first_part,
    reading_snapshot,
)
from lattica.crdt.editing import ReplicatedList, Text
from lattica.crdt.entries.chain import MAX_CHAIN, decode_chain, encode_chain
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.fields import Claims, Counter, Registers, ReplicatedSet
from lattica.crdt.keys.identities import identity_key, peer_of
from lattica.crdt.keys.sealing import SEALED_BYTES
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.errors import StoreError
from lattica.crdt.log.outcome import Outcome, Refusal
from lattica.crdt.log.replica import Replica
from lattica.crdt.log.withdrawn import withdrawn_chains
from lattica.crdt.proofs.proof import MAX_WITNESSES, Proof, Witness
from lattica.crdt.proofs.query import Query, Scope
from lattica.crdt.proofs.statement import (
    SignedStatement,
    Statement,
    heads_fingerprint,
    sign_statement,
)
from lattica.crdt.sync.heads import ID_PREFIX, Head, HeadIndex
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.turns import Turns, finish
from lattica.crdt.types.cell import Sibling
from lattica.crdt.types.payloads import (
    KINDS,
    ListWrite,
    TextWrite,
    Write,
    decode_write,
)
from lattica.crdt.types.state import Change, State
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId

_PIECE: Final = 1024
"""Entries of a chain that is sent: whoever reads it does nothing else meanwhile."""
_READ_ANEW: Final = 4
"""Times that a state is resolved in turns, if entries come meanwhile; then when it is read."""
_CLOCKS_DIFFER: Final = 120_000
"""Milliseconds between two owners' clocks, at most."""
_ITEM_BYTES: Final = 128
"""Of an entry in a chain, beside its payload and dependencies."""


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Received:
    """What came of something that a peer has sent."""

    changes: tuple[Change, ...] = ()
    is_rebuilt: bool = False
    """Whether more may have changed than is said: entries were withdrawn, or the state has not been
    read yet."""
    refusals: tuple[Refusal, ...] = ()
    waiting: int = 0
    """Entries that wait for others, or for their time."""
    is_news: bool = False
    """Whether anything was admitted, or withdrawn."""


@dataclass(frozen=True, slots=True)
class Right:
    """What somebody may do in a document."""

    peer: PeerId
    level: Level
    prefix: str
    """What names have to begin with that it writes at."""
    expires: int | None
    """Milliseconds since 1970; None: it does not end."""
    given_by: PeerId
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A read key of a sealed document."""

    id: bytes
    milliseconds: int
    """Since 1970, at which an owner named it, as he says."""
    is_here: bool
    """Whether this peer has it."""
    is_current: bool
    """Whether it is written with: no later one takes its place."""
    problem: str
    """Why it is not here, if somebody has sealed it wrongly; else empty."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry, as a person wants to see it."""

    milliseconds: int
    """Since 1970, as its author says."""
    peer: PeerId
    author: bytes
    """The session key."""
    seq: int
    id: bytes
    kind: str
    name: str | None
    """Where it writes at, if it does and that can be read here."""
    size: int
    """Bytes."""


class Document:
    """A document in a file.

    Args:
        path: the file; it is made if it is not there.
        genesis: what the document is.
        identity: who writes here.
        config: what this replica stands.
        wall: milliseconds since 1970.
        monotonic: seconds that never decrease.

    Raises:
        StoreInUseError, StoreError: the file cannot be used. One that is damaged is moved aside.
    """

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        identity: Identity,
        config: LogConfig | None = None,
        *,
        wall: Callable[[], int] = wall_clock_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.genesis = genesis
        self._replica = Replica(path, genesis, identity, config)
        self._wall = wall
        self._monotonic = monotonic
        self._resolved = State(genesis, self._replica.has_effect, self._replica.open_payload)
        self._history = History(genesis, self._replica)
        self._is_stale = True
        self._read_with: tuple[Keyring, tuple[int, int]] | None = None
        self._searchable: SearchTree | None = None
        self._head_index: HeadIndex | None = None
        self.registers = Registers(self)
        """Names and their values, like a dictionary."""

    def close(self) -> None:
        """Close the file."""
        self._replica.close()

    def __enter__(self) -> Document:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """What all entries come to. To be read only.

        Raises:
            AccessDeniedError: the document is sealed, and this peer can read nothing of it.
        """
        keyring = self._replica.keyring
        if keyring is not None and keyring.is_empty:
            raise AccessDeniedError(
                "this peer has the document, and no right to read it, or nobody has sealed a read "
                "key to it yet"
            )
        return self._resolve_anew()

    def resolving(self) -> Turns[None]:
        """Resolve the state in turns, where that is due, so that it is not when it is read. If
        entries come meanwhile, again, a few times.
        """
        for _ in range(_READ_ANEW):
            if not self._is_stale:
                return
            heads, cuts = self.heads(), self._history.cuts
            state = yield from self._history.state(heads)
            if self._history.cuts == cuts and self.heads() == heads:
                self._resolved, self._is_stale = state, False

    def _resolve_anew(self) -> State:
        if self._is_stale:
            database = self._replica.database
            self._resolved.rebuild(database.all_entries, database.withdrawn_entries)
            self._is_stale = False
        return self._resolved

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970, by this document's clock."""
        return self._wall()

    @property
    def author(self) -> bytes:
        """The session key that writes here."""
        return self._replica.writing_author()

    # The types.

    def counter(self, name: str) -> Counter:
        """A number that all add to."""
        return Counter(self, name)

    def set(self, name: str) -> ReplicatedSet:
        """Elements that are put in and taken out; who puts in wins."""
        return ReplicatedSet(self, name)

    def claims(self, name: str) -> Claims:
        """Items that one at a time holds."""
        return Claims(self, name)

    def text(self, name: str) -> Text:
        """A text that all edit. Using it raises LocalProtocolError where pycrdt is missing."""
        return Text(self, name)

    def list(self, name: str) -> ReplicatedList:
        """A list that all edit. Using it raises LocalProtocolError where pycrdt is missing."""
        return ReplicatedList(self, name)

    @property
    def next_seq(self) -> int:
        """The number of the entry that is written next under :attr:`author`, of a sealed document
        after what it needs to be sealed. Raises what :meth:`write` does.
        """
        self._prepare_sealing()
        return self._replica.next_seq

    @contextmanager
    def editing(self) -> Iterator[None]:
        """What is done to the state in it is undone if it raises."""
        try:
            yield
        except BaseException:
            self._is_stale, self._searchable = True, None
            raise

    def write(self, *writes: Write) -> tuple[Change, ...]:
        """Write all of these, or none. They are on disk when it returns.

        Raises:
            LocalProtocolError: a value is no plain data or too large, a name has more than 1,024
                bytes, or the document does not have the type.
            AccessDeniedError: this peer has no right to write, or not at that name.
            ResourceLimitError: the quota of this store's session is used up.
            StoreFullError, StoreError: the disk is full or fails; nothing is written.
        """
        self._check_names(writes)
        for each in writes:
            if not self.genesis.allows(KINDS[type(each)]):
                raise LocalProtocolError(f"this document has no {KINDS[type(each)].name.lower()}s")
        room = self._prepare_sealing()
        items = [(KINDS[type(each)], each.encode()) for each in writes]
        for kind, payload in items:
            if len(payload) <= room:
                _check_payload(kind, payload)
        deps = [each.deps if isinstance(each, TextWrite | ListWrite) else () for each in writes]
        return self._resolve(self._replica.write(self._sealed(items), self._wall(), deps)).changes

    def _prepare_sealing(self) -> int:
        """How many bytes a payload can have. In a sealed document what is needed to seal it is
        there afterwards. Raises what :meth:`write` does.
        """
        limit = self.genesis.limits.entry_bytes
        keyring = self._replica.keyring
        if keyring is None:
            return limit
        if keyring.current is None and not keyring.heads and self._is_owner:
            self.rotate_key()
        key = keyring.current
        if key is None:
            raise AccessDeniedError("no read key of this document is sealed to this peer")
        introduction = keyring.introduction(key.id, self.author)
        if introduction is not None:
            payload = KeyEntry(key.id).encode()
            deps = [(introduction,)]
            self._resolve(self._replica.write([(Kind.KEY, payload)], self._wall(), deps))
        return limit - SEALED_BYTES

    def _sealed(self, items: Sequence[tuple[Kind, bytes]]) -> Sequence[tuple[Kind, bytes]]:
        """Kinds and payloads as they stand in entries."""
        key = self._replica.keyring.current if self._replica.keyring else None
        if key is None:
            return items
        author = self.author
        return [(kind, key.seal(author, kind, payload)) for kind, payload in items]

    # Read keys.

    @property
    def can_read(self) -> bool:
        """Whether all that is here can be read, with the read keys that are here."""
        keyring = self._replica.keyring
        return keyring is None or (not keyring.is_empty and not self._resolve_anew().unread)

    def read_keys(self) -> Sequence[SealedKey]:
        """The read keys, by time. Raises LocalProtocolError if the document is not sealed."""
        found = [
            SealedKey(key_id, milliseconds_of(hlc), is_here, is_current, problem)
            for key_id, hlc, is_here, is_current, problem in self._keys().known()
        ]
        return sorted(found, key=lambda each: (each.milliseconds, each.id))

    def rotate_key(self, *, history: bool = True) -> bytes:
        """Have what is written from now on be sealed with a new key, for those who may read now;
        the ID of the key. :meth:`revoke` does so by itself.

        Args:
            history: whether it leads to the keys before it, so that who gets a right to read later
                can read what was written until now.

        Raises:
            AccessDeniedError: this peer is no owner.
            LocalProtocolError: the document is not sealed.
        """
        keyring = self._keys()
        if not self._is_owner:
            raise AccessDeniedError("only owners put another read key in place")
        readers = self._rights().readers(self._wall())
        payloads = keyring.rotation(readers, history=history)
        self._write_keys(payloads)
        return decode_key_entry(payloads[0]).key_id

    def tend_keys(self) -> None:
        """As an owner of a sealed document: give the read key to those who got a right to read and
        lack it, and put another one in place if somebody's right to read has ended.
        """
        keyring = self._replica.keyring
        if keyring is None or not self._is_owner or not keyring.heads:
            return
        now = self._wall()
        readers = self._rights().readers(now)
        if keyring.is_outdated(readers):
            self._write_keys(keyring.rotation(readers, history=True))
            return
        # Owners whose clocks differ do not undo what the other one does.
        lasting = readers & self._rights().readers(now + _CLOCKS_DIFFER)
        for key_id, missing in keyring.lacking(lasting).items():
            self._write_keys(keyring.sealing(key_id, missing))

    def _keys(self) -> Keyring:
        keyring = self._replica.keyring
        if keyring is None:
            raise LocalProtocolError("this document is not sealed: it has no read keys")
        return keyring

    def _write_keys(self, payloads: Sequence[bytes]) -> None:
        items = [(Kind.KEY, payload) for payload in payloads]
        self._resolve(self._replica.write(items, self._wall()))

    @property
    def _is_owner(self) -> bool:
        return self._rights().is_owner(self._replica.identity.public_key.data)

    # Rights.

    def grant(
        self,
        peer: PeerId | str | bytes,
        level: Level = Level.WRITE,
        *,
        prefix: str = "",
        lasts: float | None = None,
        depth: int = 0,
    ) -> bytes:
        """Give a peer a right, and write that down here; as an owner, or by a right to manage.

        Args:
            peer: who gets it: a peer ID, or an identity's key.
            level: to read, write or manage; each has those before in it. In a sealed document also
                to pull: to have it and pass it on, and read nothing of it. Who may read one is
                given its read key.
            prefix: what names have to begin with that it writes at.
            lasts: seconds until it ends, by the times of what is written; None: it does not.
            depth: how many times it may be passed on, by those who may manage.

        Returns the capability: in a document of :attr:`Mode.CAPABILITY` it can be handed over and
        used without that this replica is heard of first (:meth:`present`).

        Raises:
            AccessDeniedError: this peer may not give it.
            LocalProtocolError: the document is open to everybody, or it cannot be given.
        """
        rights = self._rights()
        if level == Level.PULL and not self.genesis.is_sealed:
            raise LocalProtocolError("who has a document that is not sealed reads it")
        identity = self._replica.identity
        own = identity.public_key.data
        parent = None
        if not rights.is_owner(own):
            parent = rights.best_of(own, Level.MANAGE, self._wall())
            if parent is None:
                raise AccessDeniedError("only owners and who may manage give rights")
        expires = None if lasts is None else self._wall() + int(lasts * 1000)
        doc_id = self.genesis.doc_id
        capability = issue(
            identity,
            doc_id,
            peer,
            Level(level),
            parent=parent,
            prefix=prefix,
            expires=expires,
            depth=depth,
            issued=self._wall(),
        ).encode()
        items = [(Kind.GRANT, capability)]
        if level >= Level.READ:
            items += self._keys_for(identity_key(peer))
        self._resolve(self._replica.write(items, self._wall()))
        return capability

    def _keys_for(self, reader: bytes) -> Sequence[tuple[Kind, bytes]]:
        """Entries that give a reader the read keys that are here."""
        keyring = self._replica.keyring
        if keyring is None:
            return []
        if self._is_owner and not keyring.heads:
            self.rotate_key()
        return [
            (Kind.KEY, payload)
            for key_id in keyring.lacking([reader])
            for payload in keyring.sealing(key_id, [reader])
        ]

    def revoke(self, peer: PeerId | str | bytes) -> int:
        """Take back all rights of a peer, and those that it has passed on. What it wrote and is
        here still counts, and nothing else, whatever time that claims. How many rights it were. A
        sealed document gets another read key, so that it reads nothing that comes later.

        Raises:
            AccessDeniedError: this peer is no owner.
            LocalProtocolError: the document is open to everybody, or the peer has no right.
        """
        rights = self._rights()
        if not rights.is_owner(self._replica.identity.public_key.data):
            raise AccessDeniedError("only owners take rights back")
        subject = identity_key(peer)
        links = [
            capability.right.id
            for capability, stands in rights.held()
            if stands and capability.right.subject == subject
        ]
        if not links:
            raise LocalProtocolError(f"{peer!s} has no right here")
        items = []
        for link in links:
            by = rights.descendants(link)
            last = [
                (author, len(feed.ids) - 1, feed.ids[-1])
                for author, feed in sorted(self._replica.log.feeds.items())
                if feed.ids and feed.identity in by
            ]
            items.append((Kind.REVOKE, Revocation(link, tuple(last)).encode()))
        keyring = self._replica.keyring
        if keyring is not None:
            readers = rights.readers(self._wall(), without=links)
            if keyring.is_outdated(readers):
                payloads = keyring.rotation(readers, history=True)
                items += [(Kind.KEY, payload) for payload in payloads]
        self._resolve(self._replica.write(items, self._wall()))
        return len(links)

    def rights(self) -> Sequence[Right]:
        """The rights that were given, by peer; those of owners go without saying."""
        found = [
            Right(
                peer_of(capability.right.subject),
                capability.right.level,
                capability.right.prefix,
                capability.right.expires,
                peer_of(capability.right.issuer),
                not stands,
            )
            for capability, stands in self._rights().held()
        ]
        return sorted(found, key=lambda each: (str(each.peer), -each.level, each.prefix))

    def present(self, capability: bytes) -> None:
        """Use a capability that was handed over: it is shown to peers, and what is written here
        from now on, by a session that begins, says that it is by this, unless the document has an
        allow-list.

        Raises:
            LocalProtocolError: it is none for this document and peer.
        """
        own = self._replica.identity.public_key.data
        try:
            found = self._rights().read(capability)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"no capability for this document: {error}") from None
        if found.right.subject != own:
            raise LocalProtocolError("a capability of another peer")
        is_needed = self.genesis.mode is Mode.CAPABILITY and not self._rights().knows(
            found.right.id
        )
        self._replica.present(capability, is_needed=is_needed)

    @property
    def capability(self) -> bytes:
        """What was presented; empty if nothing was."""
        return self._replica.capability

    def may_read(self, peer: PeerId, shown: bytes = b"") -> bool:
        """Whether a peer, which shows a capability, may read this document."""
        return self._may(Rights.may_read, peer, shown)

    def may_pull(self, peer: PeerId, shown: bytes = b"") -> bool:
        """Whether a peer, which shows a capability, is told of this document."""
        return self._may(Rights.may_pull, peer, shown)

    def _may(
        self, what: Callable[[Rights, bytes, int, bytes], bool], peer: PeerId, shown: bytes
    ) -> bool:
        rights = self._replica.log.rights
        if rights is None or not self._replica.log.feeds:
            return True  # where nothing is, nothing is given away
        try:
            identity = identity_key(peer)
        except LocalProtocolError:
            return False
        return what(rights, identity, self._wall(), shown)

    def _rights(self) -> Rights:
        rights = self._replica.log.rights
        if rights is None:
            raise LocalProtocolError("everybody may write to this document: it has no rights")
        return rights

    def _check_names(self, writes: Sequence[Write]) -> None:
        """Raises AccessDeniedError for a write that would take no effect."""
        rights = self._replica.log.rights
        own = self._replica.identity.public_key.data
        if rights is None or rights.is_owner(own):
            return
        now = milliseconds_of(self._replica.log.clock.next(self._wall()))
        shown = self._replica.capability_to_come
        if not shown and rights.best_of(own, Level.WRITE, now) is None:
            return  # there is no right at all, which is said with the reason
        for each in writes:
            if not rights.may_write_at(own, each.name, now, shown):
                raise AccessDeniedError(f"this peer has no right to write at {each.name!r}")

    def peer_of(self, author: bytes) -> PeerId | None:
        """Whose session key this is; None if nothing by it is here."""
        feed = self._replica.log.feeds.get(author)
        return peer_of(feed.identity) if feed is not None and feed.identity else None

    def entries(self) -> Iterator[LogEntry]:
        """What was written, as far as it is admitted here, by time."""
        log = self._replica.log
        for entry in self._replica.database.all_entries():
            header = entry.header
            try:
                write = decode_write(header.kind, self._replica.open_payload(entry) or b"")
            except (RemoteProtocolError, NoReadKeyError):
                write = None
            known = header.kind in [*Kind]
            yield LogEntry(
                milliseconds_of(header.hlc),
                peer_of(log.feeds[header.author].identity),
                header.author,
                header.seq,
                entry.id,
                Kind(header.kind).name.lower() if known else f"kind {header.kind}",
                write.name if write is not None else None,
                entry.size,
            )

    # What can be verified.

    @property
    def root(self) -> bytes:
        """The hash that names the whole state: replicas with the same entries have the same.

        Making it takes some 5 µs for each place that was written at.
        """
        return self._tree().root

    def proof(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """The proof of what the state says at a place, or of that there is nothing; a text is the
        name of a register. :func:`~lattica.crdt.proofs.proof.verify_proof` reads it, without a
        node.

        It has the signed entries of up to 64 writes that won there, of registers and sets,
        and, unless `is_signed` is false, this store's signature of the state's root.

        Raises:
            LocalProtocolError: it would have more than 4 MiB; ask for less at once.
        """
        asked = Query(Kind.REGISTER, query) if isinstance(query, str) else query
        tree = self._tree()
        found = (self._witness(each) for each in islice(self._winners(asked), MAX_WITNESSES))
        witnesses = tuple(each for each in found if each is not None)
        signed = self.statement() if is_signed else None
        return Proof(asked, tree.root, tree.prove(*asked.key_range), witnesses, signed).encode()

    def statement(self, of: bytes = b"") -> SignedStatement:
        """What this store says that its state is, signed; see :func:`sign_statement`.

        Raises:
            AccessDeniedError: the document is sealed, and this peer cannot read all of it.
        """
        self._check_reads_all()
        return self._say(self.heads(), self.root, of)

    def _check_reads_all(self) -> None:
        if not self.can_read:
            raise AccessDeniedError(
                "what this peer reads of the document is not all of its state: it lacks read keys"
            )

    def _say(
        self, heads: Mapping[bytes, tuple[int, bytes]], root: bytes, of: bytes
    ) -> SignedStatement:
        statement = Statement(
            self.genesis.doc_id,
            heads_fingerprint((author, *head) for author, head in heads.items()),
            root,
            sum(length for length, _ in heads.values()),
            self._wall(),
        )
        return sign_statement(statement, *self._replica.signing_session(), of)

    def stating(self, of: bytes = b"", point: Point | None = None) -> Turns[SignedStatement]:
        """As :meth:`statement`, in turns; of what the document was at a point."""
        self._check_reads_all()
        if point is None:
            point = yield from self._point()
        if self._history.is_at(point):
            return self.statement(of)
        return self._say(point.heads, point.tree.root, of)

    def _point(self) -> Turns[Point]:
        """What the document is now, in turns."""
        if self._searchable is not None:
            return Point(self.heads(), self._history.cuts, self._resolved, self._searchable)
        point = yield from self._history.point()
        if self._history.is_at(point):
            if self._is_stale:
                self._resolved, self._is_stale = point.state, False
            self._searchable = point.tree
        return point

    # What of the history can go.

    def prune(self, grace: float = 7 * 86_400) -> int:
        """Drop the entries that the state does not need and that are older than `grace` seconds;
        how many they were. What their headers say stays. Who lacks them is given a
        :meth:`snapshot`.

        Raises:
            LocalProtocolError: the document has owners: what they say of rights may be about any
                entry.
            StoreFullError, StoreError: it cannot be written; nothing is dropped.
        """
        return finish(self.pruning(grace))

    def pruning(self, grace: float = 7 * 86_400) -> Turns[int]:
        """As :meth:`prune`, in turns. If it ends early, what was dropped until then was all that
        stays dropped; the state is the same at any time.
        """
        if self._replica.log.rights is not None:
            raise LocalProtocolError("a document with owners is not pruned")
        before = self._wall() - int(grace * 1000)
        return (yield from self._history.prune(lambda: self.state.standing(), before))

    def snapshot(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """What another replica can begin with: parts of at most 1 MiB, signed by this store. With
        signatures of others who have the same: theirs, too; see :meth:`countersign`.
        """
        body = finish(self._history.body(self.heads()))
        return first_part([self.statement(body_digest(body)), *others]), *body

    def making_snapshot(self, others: Sequence[SignedStatement] = ()) -> Turns[tuple[bytes, ...]]:
        """As :meth:`snapshot`, in turns; of what the document is at the beginning."""
        for _ in range(3):
            cuts = self._history.cuts
            point = yield from self._point()
            body = yield from self._history.body(point.heads)
            if self._history.cuts == cuts:
                mine = yield from self.stating(body_digest(body), point)
                return first_part([mine, *others]), *body
        return self.snapshot(others)

    def countersign(self, parts: Sequence[bytes]) -> SignedStatement:
        """Sign somebody else's snapshot, if this store has come to the same.

        Raises:
            LocalProtocolError: it has something else in it than this store.
        """
        body = finish(self._history.body(self.heads()))
        if list(parts[1:]) != body:
            raise LocalProtocolError("a snapshot of something else than what is here")
        return self.statement(of=body_digest(body))

    def receive_snapshot(
        self, parts: Iterable[bytes], signers: Collection[bytes] = (), needed: int = 1
    ) -> None:
        """Take a snapshot that `needed` of the identities in `signers` have signed; none given:
        of the owners. All that is here stays.

        Raises:
            RemoteProtocolError: it is none, is not signed by so many of them, does not come to the
                state that they say, breaks a limit of the document, or contradicts what is here.
            StoreFullError, StoreError: it cannot be kept; it is as if it had not come.
        """
        finish(self.receiving_snapshot(parts, signers, needed))

    def receiving_snapshot(
        self, parts: Iterable[bytes], signers: Collection[bytes] = (), needed: int = 1
    ) -> Turns[None]:
        """As :meth:`receive_snapshot`, in turns."""
        signers = signers or self.genesis.owners
        read = yield from reading_snapshot(parts, self.genesis.doc_id, signers, needed)
        yield from self.adopting(read)

    def adopting(self, read: Snapshot) -> Turns[None]:
        """Take a snapshot that is signed by enough, in turns: in one of them, all of it or
        nothing. Raises what :meth:`receive_snapshot` does.
        """
        now, config = self._wall(), self._replica.log.config
        check_authors(read, config, self._replica.log.feeds)
        check_limits(read, self.genesis, config, now)
        identity = self._replica.identity
        state, tree = yield from replay(read, self.genesis, identity, config, now)
        log = self._replica.log
        check_authors(read, config, log.feeds)  # others may have come meanwhile
        is_fresh = not log.feeds and log.rights is None
        self._replica.take_prefixes(list(read.feeds.values()), read.withdrawn, now)
        self._history.cuts += 1
        self._head_index = None
        self._is_stale, self._searchable = True, None
        if is_fresh:
            self._resolved, self._searchable, self._is_stale = state, tree, False
        try:
            for _ in range(_READ_ANEW):
                yield from self._point()
                if not self._is_stale:
                    break  # nothing has come meanwhile
        finally:
            self._on_snapshot()

    def _winners(self, query: Query) -> Iterator[Sibling]:
        match query.kind:
            case Kind.REGISTER if query.scope == Scope.PREFIX:
                yield from self.state.winners(query.name)
            case Kind.REGISTER:
                yield from self.state.conflicts(query.name)[:1]
            case Kind.SET:
                element = encode(query.item) if query.scope == Scope.ITEM else None
                yield from self.state.winners_in(query.name, element)

    def _witness(self, sibling: Sibling) -> Witness | None:
        """The entry of a write; None if nobody can be shown it, as it lacks its own signature."""
        log, database = self._replica.log, self._replica.database
        seq = log.feeds[sibling.author].ids.index(sibling.entry_id)
        entry, first = database.entry(sibling.author, seq), database.entry(sibling.author, 0)
        if entry.payload is None or first.payload is None or not entry.is_signed():
            return None
        doc_id, keyring = self.genesis.doc_id, self._replica.keyring
        certificate = decode_certificate(first.payload, doc_id, sibling.author)
        return Witness(entry, certificate, b"" if keyring is None else keyring.entry_key(entry))

    def _tree(self) -> SearchTree:
        state = self.state
        if self._searchable is None:
            self._searchable = SearchTree(dict(state.items()))
        return self._searchable

    # What peers have.

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """How many entries of each author are here, and the ID of the newest."""
        return self._history.heads()

    def chains_since(self, heads: Mapping[bytes, tuple[int, bytes]]) -> Iterator[bytes]:
        """Chains of what is here beyond what another replica says is there, in pieces that it
        takes. Of an author who has written something else there, all of it: that proves the fork.
        """
        for author, (length, _) in self.heads().items():
            since, newest = heads.get(author, (0, b""))
            if 0 < since <= length and self.id_at(author, since - 1) != newest:
                since = 0
            yield from self.chains_of(author, since)

    def chains_of(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of an author's entries from a sequence number on, in pieces that replicas take.

        Each ends with an entry that is signed by itself; what has no such entry behind it stays.
        """
        length = self._replica.log.length(author)
        while since < length:
            entries: list[Entry] = []
            size = 0
            for entry in self._replica.database.entries(author, since, length):
                if entry.header.seq != since + len(entries):
                    break  # only the ID of the one before is here
                more = len(entry.payload or b"") + 40 * len(entry.header.deps) + _ITEM_BYTES
                if entries and (size + more > MAX_CHAIN - 256 or len(entries) == _PIECE):
                    break
                entries.append(entry)
                size += more
            while entries and not entries[-1].is_signed():
                entries.pop()
            if not entries:
                return
            yield encode_chain(entries, with_prev=True)
            since += len(entries)

    def withdrawn_for(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of what forks have withdrawn and an author's entries from a sequence number on
        depend on, for replicas that were not there before the fork was proved.
        """
        log, database = self._replica.log, self._replica.database
        if not any(feed.fork is not None for feed in log.feeds.values()):
            return
        entries = database.entries(author, since, log.length(author))
        yield from withdrawn_chains(entries, database.withdrawn_entries, log.feeds)

    def has_gap(self, author: bytes, since: int) -> bool:
        """Whether an author's entries from a sequence number on cannot all be had as chains."""
        return since < self._replica.database.pruned_end(author)

    @property
    def head_index(self) -> HeadIndex:
        """How far each author is here, for exchanges with others. To be read only."""
        if self._head_index is None:
            self._head_index = HeadIndex()
            for author in self._replica.log.feeds:
                self._note_head(author)
        return self._head_index

    def id_at(self, author: bytes, seq: int) -> bytes | None:
        """The ID of an admitted entry."""
        return self._replica.log.id_at(author, seq)

    def comes_first(self, author: bytes) -> bool:
        """Whether others need an author's entries to take those of the rest: an owner's."""
        log = self._replica.log
        feed = log.feeds.get(author)
        return log.rights is not None and feed is not None and log.rights.is_owner(feed.identity)

    def fork_of(self, author: bytes) -> bytes | None:
        """The proof that an author contradicts himself, if there is one."""
        feed = self._replica.log.feeds.get(author)
        return feed.fork.encode() if feed is not None and feed.fork is not None else None

    def _note_head(self, author: bytes) -> None:
        if self._head_index is None:
            return
        feed = self._replica.log.feeds[author]
        newest = feed.ids[-1][:ID_PREFIX] if feed.ids else b""
        fork = feed.fork.seq if feed.fork else None
        self._head_index.set(Head(author, len(feed.ids), newest, fork))

    def forks(self) -> Iterator[bytes]:
        """Proofs of all forks that are known here."""
        for feed in self._replica.log.feeds.values():
            if feed.fork is not None:
                yield feed.fork.encode()

    def receive(self, chain: bytes, peer: object) -> Received:
        """Take a chain that a peer has sent.

        Raises:
            RemoteProtocolError: it is none, or not signed.
            StoreFullError, StoreError: it cannot be kept; it is as if it had not come.
        """
        entries = decode_chain(chain, self.genesis.doc_id, self._replica.log.id_at)
        with self._kept_or_forgotten():
            outcome = self._replica.receive(entries, peer, self._wall(), self._monotonic())
        return self._resolve(outcome)

    def receive_fork(self, proof: bytes) -> Received:
        """Take the proof of a fork. Raises what :meth:`receive` does."""
        decoded = decode_fork(proof, self.genesis.doc_id)
        with self._kept_or_forgotten():
            outcome = self._replica.receive_fork(decoded, self._wall())
        return self._resolve(outcome)

    def advance(self) -> Received:
        """Admit what was from the future and is not any more."""
        with self._kept_or_forgotten():
            outcome = self._replica.advance(self._wall())
        return self._resolve(outcome)

    @contextmanager
    def _kept_or_forgotten(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            self._head_index = None  # the log has been read anew
            raise

    def _resolve(self, outcome: Outcome) -> Received:
        for author in {entry.header.author for entry in outcome.admitted}:
            self._note_head(author)
        for proof in outcome.forks:
            self._note_head(proof.author)
        for author, _ in outcome.withdrawn:
            self._note_head(author)
        if outcome.forks or outcome.withdrawn or outcome.tombstones or outcome.resigned:
            self._history.cuts += 1
        if self._reads_more() or outcome.forks or outcome.withdrawn or self._say_rights(outcome):
            # Resolved anew when it is read: who makes many forks makes few of these.
            self._is_stale = True
        if outcome.forks or outcome.admitted or outcome.withdrawn:
            self._searchable = None
        changes: list[Change] = []
        if not self._is_stale:
            for entry in outcome.tombstones:
                self._resolved.withdraw(entry)
            applied = (self._resolved.apply(entry) for entry in outcome.admitted)
            changes = [change for change in applied if change is not None]
            self._is_stale = not self._resolved.is_settled
        received = Received(
            tuple(changes),
            self._is_stale,
            tuple(outcome.refusals),
            outcome.waiting,
            outcome.is_news,
        )
        self._on_outcome(outcome, received)
        return received

    def _reads_more(self) -> bool:
        """Whether there are other read keys than when this was asked last."""
        keyring = self._replica.keyring
        before = self._read_with
        self._read_with = None if keyring is None else (keyring, keyring.extent)
        return before != self._read_with

    @staticmethod
    def _say_rights(outcome: Outcome) -> bool:
        """Whether what was admitted says who may write where."""
        return any(each.header.kind in (Kind.GRANT, Kind.REVOKE) for each in outcome.admitted)

    def _on_outcome(self, outcome: Outcome, received: Received) -> None:
        """For those that build upon this: what has just been admitted, and is kept."""

    def _on_snapshot(self) -> None:
        """For those that build upon this: a snapshot was taken."""


def _check_payload(kind: Kind, payload: bytes) -> None:
    """Raises LocalProtocolError for what no replica would read."""
    try:
        decode_write(kind, payload)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"it cannot be written: {error}") from None
