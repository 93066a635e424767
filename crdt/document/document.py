"""A document at one store: what users read and write of it, over its log and its file.

There is no network here: chains come in and go out as bytes. Calls block for as long as the disk
does, and belong to one thread. What is written is on disk when the call returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lattica.crdt.access.capability import Level
from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.compaction.history import History
from lattica.crdt.compaction.snapshot import Snapshot
from lattica.crdt.document.editing import ReplicatedList, Text
from lattica.crdt.document.erasing import Erasing, Named
from lattica.crdt.document.feeds import Feeds
from lattica.crdt.document.fields import Claims, Counter, Registers, ReplicatedSet
from lattica.crdt.document.governance.finality import DocumentFinality
from lattica.crdt.document.governance.owners import DocumentOwners, Owner, OwnerAppointment
from lattica.crdt.document.governance.read_keys import ReadKeys, SealedKey
from lattica.crdt.document.governance.rights import DocumentRights, Right
from lattica.crdt.document.governance.unpruned import why_not_pruned
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.document.listing import LogEntry, listed
from lattica.crdt.document.received import Received
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.document.snapshots import Snapshots
from lattica.crdt.document.statements import Statements
from lattica.crdt.entries.chain import read_chain
from lattica.crdt.entries.fork import ForkProof, decode_fork
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.identities import peer_of
from lattica.crdt.log.clock import wall_clock_ms
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.errors import StoreError
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.proofs.query import Query
from lattica.crdt.proofs.statement import SignedStatement
from lattica.crdt.sync.heads import HeadIndex
from lattica.crdt.types.payloads import KINDS, ListWrite, TextWrite, Write, check_name, decode_write
from lattica.crdt.types.state import Change, State
from lattica.nat.base.checks import check_type, with_type
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId


class Document:
    """A document in a file.

    Args:
        path: the file; it is made if it is not there.
        genesis: what the document is.
        identity: who writes here.
        config: what this replica stands.
        wall: milliseconds since 1970.
        monotonic: seconds that never decrease.
        replica: what is in the file, if it has been opened already.

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
        replica: Replica | None = None,
    ) -> None:
        self.genesis = genesis
        self._replica = replica or Replica(path, genesis, identity, config, wall)
        self._wall = wall
        self._monotonic = monotonic
        self._history = History(self._replica)
        self._resolved = Resolved(self._replica, self._history)
        self._feeds = Feeds(self._replica, self._history)
        self._statements = Statements(self._replica, self._history, self._resolved, wall)
        self._writer = Writer(self._replica, wall, self._resolve)
        self._snapshots = Snapshots(
            self._replica,
            self._history,
            self._resolved,
            self._feeds,
            self._statements,
            DocumentFinality(self._writer),
            wall=wall,
            on_taken=self._on_snapshot,
        )
        self._read_keys = ReadKeys(self._writer)
        self._rights = DocumentRights(self._writer, self._read_keys)
        self._owners = DocumentOwners(self._writer)
        self._erasing = Erasing(self._writer, self._resolved, self._rights)
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
        return self._resolved.state

    def resolving(self) -> Turns[None]:
        """Resolve the state in turns, where that is due, so that it is not when it is read. If
        entries come meanwhile, again, a few times.
        """
        return self._resolved.resolving()

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
        self._writer.take_office()
        self._read_keys.prepare()
        return self._replica.next_seq

    @contextmanager
    def editing(self) -> Iterator[None]:
        """What is done to the state in it is undone if it raises."""
        try:
            yield
        except BaseException:
            self._resolved.forget()
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
        if not writes:
            return ()
        for each in writes:
            if type(each) not in KINDS:
                raise LocalProtocolError(f"what is written is a Write, not {with_type(each)}")
            check_name(each.name)
        self._writer.take_office()
        self._rights.check_names(writes)
        for each in writes:
            if not self.genesis.allows(KINDS[type(each)]):
                raise LocalProtocolError(f"this document has no {KINDS[type(each)].name.lower()}s")
        key = self._read_keys.prepare()
        items = [(KINDS[type(each)], each.encode()) for each in writes]
        for kind, payload in items:
            if len(payload) <= self.genesis.payload_room:
                _check_payload(kind, payload)
        if key is not None:
            items = [(kind, key.seal(self.author, kind, payload)) for kind, payload in items]
        deps = [each.deps if isinstance(each, TextWrite | ListWrite) else () for each in writes]
        return self._resolve(self._replica.write(items, self._wall(), deps)).changes

    # Read keys.

    @property
    def can_read(self) -> bool:
        """Whether all that is here can be read, with the read keys that are here."""
        return self._resolved.reads_all

    def read_keys(self) -> Sequence[SealedKey]:
        """The read keys, by time. Raises LocalProtocolError if the document is not sealed."""
        return self._read_keys.known()

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
        return self._read_keys.rotate(history=history)

    def tend_keys(self) -> None:
        """As an owner of a sealed document: give the read key to those who got a right to read and
        lack it, and put another one in place if somebody's right to read has ended.
        """
        self._read_keys.tend()

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
        return self._rights.grant(peer, level, prefix=prefix, lasts=lasts, depth=depth)

    def revoke(self, peer: PeerId | str | bytes) -> int:
        """Take back all rights of a peer, and those that it has passed on. What it wrote and is
        here still counts, and nothing else, whatever time that claims. How many rights it were. A
        sealed document gets another read key, so that it reads nothing that comes later.

        Raises:
            AccessDeniedError: this peer is no owner.
            LocalProtocolError: the document is open to everybody, or the peer has no right.
        """
        return self._rights.revoke(peer)

    def rights(self) -> Sequence[Right]:
        """The rights that were given, by peer; those of owners go without saying."""
        return self._rights.given()

    def present(self, capability: bytes) -> None:
        """Use a capability that was handed over: it is shown to peers, and what is written here
        from now on, by a session that begins, says that it is by this, unless the document has an
        allow-list. Or an appointment (:meth:`appoint`): this peer owns the document by it, as soon
        as the fork that it is because of is known here.

        Raises:
            LocalProtocolError: it is none for this document and peer.
        """
        check_type("capability", capability, bytes, "bytes")
        if not self._owners.present(capability):
            self._rights.present(capability)

    @property
    def capability(self) -> bytes:
        """What was presented, be it an appointment; empty if nothing was."""
        return self._replica.shown

    # Owners.

    def owners(self) -> Sequence[Owner]:
        """Who owns the document, by peer; nobody if everybody may write."""
        return self._owners.all()

    @property
    def is_owner(self) -> bool:
        """Whether this peer owns the document, frozen or not, as far as is known here."""
        rights = self._replica.log.rights
        return rights is not None and rights.is_owner(self._replica.identity.public_key.data)

    def standing_of(self, peer: PeerId, shown: bytes = b"") -> Iterator[bytes]:
        """Messages by which a peer that owned the document learns who was appointed in its place,
        for when it may not read the document any more; of what was written they have nothing. For
        who has never owned it, nor was appointed (`shown`), there are none.
        """
        return self._owners.standing_of(peer, shown)

    def appoint(
        self,
        successor: PeerId | str | bytes,
        *,
        instead_of: PeerId | str | bytes | None = None,
        by: Identity | None = None,
    ) -> bytes:
        """Appoint an owner in the place of one who has contradicted himself, as far as one
        signature does that. The appointment is for :meth:`sign_appointment`, and then for the
        successor to :meth:`present`, from when on it has an effect everywhere.

        What the former owner has written still counts as far as it is here, and what it did that
        only owners do, as far as it was before the contradiction; nothing that comes later.

        Args:
            successor: may be the same peer, which goes on as another session.
            instead_of: the owner; not needed if it is the only one who is frozen.
            by: signs: a key of the document's recovery, or another owner where these appoint; by
                default this peer.

        Raises:
            AccessDeniedError: who signs does not appoint owners.
            LocalProtocolError: nobody is known here to have contradicted himself, the successor
                is an owner already, or the document was made without a recovery.
        """
        return self._owners.appoint(successor, instead_of=instead_of, by=by)

    def sign_appointment(self, appointment: bytes, *, by: Identity | None = None) -> bytes:
        """The same appointment with one signature more. Raises what :meth:`appoint` does."""
        check_type("appointment", appointment, bytes, "bytes")
        return self._owners.sign(appointment, by=by)

    def read_appointment(self, appointment: bytes) -> OwnerAppointment:
        """What an appointment says, and whether so many have signed it as are needed. Raises
        LocalProtocolError if it is none for this document.
        """
        check_type("appointment", appointment, bytes, "bytes")
        return self._owners.read(appointment)

    def take_office(self) -> None:
        """Own the document by an appointment that was presented, if that can be now and is not so
        yet. Whoever writes does that by itself. Raises what :meth:`write` does.
        """
        self._writer.take_office()

    def may_read(self, peer: PeerId, shown: bytes = b"") -> bool:
        """Whether a peer, which shows a capability, may read this document."""
        return self._rights.may_read(peer, shown)

    def may_pull(self, peer: PeerId, shown: bytes = b"") -> bool:
        """Whether a peer, which shows a capability, is told of this document."""
        return self._rights.may_pull(peer, shown)

    def may_come_to_read(self, peer: PeerId) -> bool:
        """Whether nothing is known here of any right of a peer: what gives it one may not be here
        yet, and the peer may be the one who has it.
        """
        return self._rights.may_come_to_read(peer)

    def peer_of(self, author: bytes) -> PeerId | None:
        """Whose session key this is; None if nothing by it is here."""
        feed = self._replica.log.feeds.get(author)
        return peer_of(feed.identity) if feed is not None and feed.identity else None

    def entries(self) -> Iterator[LogEntry]:
        """What was written, as far as it is admitted here, by time."""
        return listed(self._replica)

    def erase(self, *entries: Named) -> int:
        """Have what entries say go, here and at all peers, for good; how many they were that were
        not erased before. That they were written, by whom and when, stays and can be verified.

        Args:
            entries: as :meth:`entries` lists them, or their IDs, as bytes or text; of a text the
                first eight digits are enough if only one begins with them.

        Who has written an entry erases it, or an owner of the document. What the state still needs
        has to be written over first: the value of a register, what was last said of an element of
        a set, what a session has added to a counter or claimed last.

        Raises:
            LocalProtocolError: there is no such entry here, the state needs it, or it cannot be
                erased: it is an edit of a text or list, says who may do what, or was pruned here.
                Nothing is erased.
            AccessDeniedError: somebody else has written it, or this peer has no right to write at
                the name where it does.
            StoreFullError, StoreError: it cannot be written; nothing is erased.
        """
        return self._erasing.erase(entries)

    # What can be verified.

    @property
    def root(self) -> bytes:
        """The hash that names the whole state: replicas with the same entries have the same.

        Making it takes some 5 µs for each place that was written at.
        """
        return self._resolved.tree().root

    def naming(self) -> Turns[bytes]:
        """As :attr:`root`, in turns; of what the document was at some time meanwhile."""
        self._resolved.check_readable()
        return (yield from self._resolved.recent()).tree.root

    def proof(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """The proof of what the state says at a place, or of that there is nothing; a text is the
        name of a register. :func:`~lattica.crdt.proofs.proof.verify_proof` reads it, without a
        node.

        It has the signed entries of up to 64 writes that won there, of registers and sets,
        and, unless `is_signed` is false, this store's signature of the state's root.

        Raises:
            LocalProtocolError: it would have more than 4 MiB; ask for less at once.
        """
        return self._statements.proof(query, is_signed=is_signed)

    def proving(self, query: Query | str, *, is_signed: bool = True) -> Turns[bytes]:
        """As :meth:`proof`, in turns; of what the document was at some time meanwhile."""
        return self._statements.proving(query, is_signed=is_signed)

    def statement(self, of: bytes = b"") -> SignedStatement:
        """What this store says that its state is, signed; see :func:`sign_statement`.

        Raises:
            AccessDeniedError: the document is sealed, and this peer cannot read all of it.
        """
        return self._statements.statement(of)

    def stating(self) -> Turns[SignedStatement]:
        """As :meth:`statement`, in turns; of what the document was at some time meanwhile. Without
        a root if this peer cannot read all of it.
        """
        return self._statements.stating()

    # What of the history can go.

    def prune(self, grace: float = 7 * 86_400) -> int:
        """Drop the entries that the state does not need and that are older than `grace` seconds;
        how many they were. What their headers say stays. Who lacks them is given a
        :meth:`snapshot`.

        In a document with owners, what an owner has called final: that it counts, whatever right is
        taken back later. An owner who prunes says so of everything that is that old, and has been
        here for that long; others drop what owners have said it of.

        Raises:
            LocalProtocolError: `grace` is no number of seconds, 0 or more.
            StoreFullError, StoreError: it cannot be written; nothing is dropped.
        """
        return finish(self.pruning(grace))

    def pruning(self, grace: float = 7 * 86_400) -> Turns[int]:
        """As :meth:`prune`, in turns. If it ends early, what was dropped until then was all that
        stays dropped; the state is the same at any time.
        """
        return self._snapshots.pruning(grace)

    def why_not_pruned(self) -> str:
        """Why :meth:`prune` has dropped nothing, as far as that is known here."""
        return why_not_pruned(self._writer, self._resolved)

    def snapshot(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """What another replica can begin with: parts of at most 1 MiB, signed by this store. With
        signatures of others who have the same, up to 63: theirs, too; see :meth:`countersign`. Who
        cannot read all of a sealed document makes one that does not say what it comes to.

        Raises LocalProtocolError for more signatures than that, and for one of something else.
        """
        return self._snapshots.snapshot(others)

    def making_snapshot(self, others: Sequence[SignedStatement] = ()) -> Turns[tuple[bytes, ...]]:
        """As :meth:`snapshot`, in turns; of what the document is at the beginning."""
        return self._snapshots.making_snapshot(others)

    def countersign(self, parts: Sequence[bytes]) -> SignedStatement:
        """Sign somebody else's snapshot, if this store has come to the same.

        Raises:
            LocalProtocolError: it has something else in it than this store.
        """
        return self._snapshots.countersign(parts)

    def receive_snapshot(
        self,
        parts: Iterable[bytes],
        signers: Collection[PeerId | str | bytes] = (),
        needed: int = 1,
    ) -> None:
        """Take a snapshot that `needed` of the peers in `signers` have signed; none given: of
        the owners. All that is here stays.

        Raises:
            LocalProtocolError: nobody is named in a document that has no owners.
            RemoteProtocolError: it is none, is not signed by so many of them, does not come to the
                state that they say, breaks a limit of the document, or contradicts what is here.
            StoreFullError, StoreError: it cannot be kept; it is as if it had not come.
        """
        finish(self.receiving_snapshot(parts, signers, needed))

    def receiving_snapshot(
        self,
        parts: Iterable[bytes],
        signers: Collection[PeerId | str | bytes] = (),
        needed: int = 1,
    ) -> Turns[None]:
        """As :meth:`receive_snapshot`, in turns."""
        read = yield from self._snapshots.reading(parts, signers, needed)
        yield from self.adopting(read)

    def adopting(self, read: Snapshot) -> Turns[None]:
        """Take a snapshot that is signed by enough, in turns: in one of them, all of it or
        nothing. Raises what :meth:`receive_snapshot` does.

        What it proves of authors who contradict themselves is here then, whatever comes of it: who
        has made it hears of that, and makes another one.
        """
        for proof in self._replica.log.contradictions(read.feeds.values()):
            self._take_fork(proof)
        yield from self._snapshots.adopting(read)

    # What peers have.

    @property
    def losses(self) -> int:
        """A number that is higher whenever something may not take effect any more, or a snapshot
        was taken: what is needed then may have been pruned here, and others may have it. 0 if
        nothing was pruned.
        """
        return self._history.losses

    @property
    def given_by(self) -> PeerId | None:
        """Who alone says so far that what he left out of a snapshot does not matter. It is kept in
        the file.
        """
        data = self._replica.database.given_by()
        return PeerId(data) if data else None

    @given_by.setter
    def given_by(self, peer: PeerId | None) -> None:
        self._replica.database.note_given_by(b"" if peer is None else peer.to_bytes())

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """How many entries of each author are here, and the ID of the newest."""
        return self._history.heads()

    def chains_since(self, heads: Mapping[bytes, tuple[int, bytes]]) -> Iterator[bytes]:
        """Chains of what is here beyond what another replica says is there, in pieces that it
        takes. Of an author who has written something else there, all of it: that proves the fork.
        """
        return self._feeds.chains_since(heads)

    def chains_of(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of an author's entries from a sequence number on, in pieces that replicas take.

        Each ends with an entry that is signed by itself; what has no such entry behind it stays.
        """
        return self._feeds.chains_of(author, since)

    def withdrawn_for(self, author: bytes, since: int) -> Iterator[bytes]:
        """Chains of what forks have withdrawn and an author's entries from a sequence number on
        depend on, for replicas that were not there before the fork was proved.
        """
        return self._feeds.withdrawn_for(author, since)

    def has_gap(self, author: bytes, since: int) -> bool:
        """Whether an author's entries from a sequence number on cannot all be had as chains."""
        return self._feeds.has_gap(author, since)

    @property
    def head_index(self) -> HeadIndex:
        """How far each author is here, for exchanges with others. To be read only."""
        return self._feeds.head_index

    def id_at(self, author: bytes, seq: int) -> bytes | None:
        """The ID of an admitted entry."""
        return self._replica.log.id_at(author, seq)

    def comes_first(self, author: bytes) -> bool:
        """Whether others need an author's entries to take those of the rest: an owner's."""
        return self._feeds.comes_first(author)

    def fork_of(self, author: bytes) -> bytes | None:
        """The proof that an author contradicts himself, if there is one."""
        return self._feeds.fork_of(author)

    def forks(self) -> Iterator[bytes]:
        """Proofs of all forks that are known here."""
        return self._feeds.forks()

    def receive(self, chain: bytes, peer: object) -> Received:
        """Take a chain that a peer has sent.

        Raises:
            RemoteProtocolError: it is none, or not signed.
            StoreFullError, StoreError: it cannot be kept; it is as if it had not come.
        """
        read = read_chain(chain, self.genesis.doc_id, self._replica.log.id_at)
        with self._kept_or_forgotten():
            outcome = self._replica.receive(
                read.entries, peer, self._wall(), self._monotonic(), read.shown
            )
        return self._resolve(outcome)

    def receive_fork(self, proof: bytes) -> Received:
        """Take the proof of a fork. Raises what :meth:`receive` does."""
        return self._take_fork(decode_fork(proof, self.genesis.doc_id))

    def _take_fork(self, proof: ForkProof) -> Received:
        with self._kept_or_forgotten():
            outcome = self._replica.receive_fork(proof, self._wall())
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
            self._feeds.forget()  # the log has been read anew
            raise

    def _resolve(self, outcome: Outcome) -> Received:
        self._feeds.take(outcome)
        changes = self._resolved.take(outcome)
        received = Received(
            changes,
            self._resolved.is_stale,
            tuple(outcome.refusals),
            outcome.waiting,
            outcome.is_news,
            outcome.is_news or outcome.says_what_lacks,
        )
        self._on_outcome(outcome, received)
        return received

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
