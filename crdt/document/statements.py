"""What can be verified of a document without having it: proofs, and signed statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from lattica.crdt.base.canonical import encode
from lattica.crdt.base.turns import Turns
from lattica.crdt.compaction.history import History, Point
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.proofs.proof import MAX_WITNESSES, Proof, Witness
from lattica.crdt.proofs.query import Query, Scope
from lattica.crdt.proofs.statement import (
    SignedStatement,
    Statement,
    heads_fingerprint,
    sign_statement,
)
from lattica.crdt.types.cell import Sibling
from lattica.crdt.types.state import State
from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import AccessDeniedError


class Statements:
    """What a store says of the state of its document, and shows of it."""

    def __init__(
        self,
        replica: Replica,
        history: History,
        resolved: Resolved,
        wall: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._history = history
        self._resolved = resolved
        self._wall = wall

    def proof(self, query: Query | str, *, is_signed: bool = True) -> bytes:
        """As :meth:`Document.proof`."""
        tree = self._resolved.tree()
        point = Point(self._history.heads(), self._history.cuts, self._resolved.state, tree)
        return self._prove(query, point, is_signed=is_signed)

    def proving(self, query: Query | str, *, is_signed: bool = True) -> Turns[bytes]:
        """As :meth:`proof`, in turns; of what the document was at some time meanwhile."""
        for _ in range(3):
            self._resolved.check_readable()
            point = yield from self._resolved.recent()
            if point.cuts == self._history.cuts:
                return self._prove(query, point, is_signed=is_signed)
        return self.proof(query, is_signed=is_signed)

    def _prove(self, query: Query | str, point: Point, *, is_signed: bool) -> bytes:
        asked = Query(Kind.REGISTER, query) if isinstance(query, str) else query
        check_type("query", asked, Query, "a Query, or the name of a register")
        won = islice(_winners(point.state, asked), MAX_WITNESSES)
        witnesses = tuple(each for each in map(self._witness, won) if each is not None)
        tree = point.tree
        signed = None
        if is_signed:
            self._check_reads_all(point.state)
            signed = self.say(point.heads, tree.root)
        return Proof(asked, tree.root, tree.prove(*asked.key_range), witnesses, signed).encode()

    def statement(self, of: bytes = b"") -> SignedStatement:
        """As :meth:`Document.statement`."""
        self._check_reads_all()
        return self.say(self._history.heads(), self._resolved.tree().root, of)

    def stating(self) -> Turns[SignedStatement]:
        """As :meth:`Document.stating`."""
        point = yield from self._resolved.recent()
        return self.say(point.heads, self.root_of(point))

    @staticmethod
    def root_of(point: Point) -> bytes:
        """What can be said of the state of now: nothing where not all of it can be read here."""
        return b"" if point.state.unread else point.tree.root

    def _check_reads_all(self, state: State | None = None) -> None:
        """Raises AccessDeniedError if what is read here, or in a state, is not all: of that nothing
        is said.
        """
        reads_all = self._resolved.reads_all if state is None else not state.unread
        if not reads_all:
            raise AccessDeniedError(
                "what this peer reads of the document is not all of its state: it lacks read keys"
            )

    def say(
        self, heads: Mapping[bytes, tuple[int, bytes]], root: bytes, of: bytes = b""
    ) -> SignedStatement:
        """Sign that entries come to a root, be it empty."""
        statement = Statement(
            self._replica.genesis.doc_id,
            heads_fingerprint((author, *head) for author, head in heads.items()),
            root,
            sum(length for length, _ in heads.values()),
            self._wall(),
        )
        return sign_statement(statement, *self._replica.signing_session(), of)

    def _witness(self, sibling: Sibling) -> Witness | None:
        """The entry of a write; None if nobody can be shown it, as it lacks its own signature."""
        log, database = self._replica.log, self._replica.database
        seq = log.feeds[sibling.author].ids.index(sibling.entry_id)
        entry, first = database.entry(sibling.author, seq), database.entry(sibling.author, 0)
        if entry.payload is None or first.payload is None or not entry.is_signed():
            return None
        doc_id, keyring = self._replica.genesis.doc_id, self._replica.keyring
        certificate = decode_certificate(first.payload, doc_id, sibling.author)
        return Witness(entry, certificate, b"" if keyring is None else keyring.entry_key(entry))


def _winners(state: State, query: Query) -> Iterator[Sibling]:
    match query.kind:
        case Kind.REGISTER if query.scope == Scope.PREFIX:
            yield from state.winners(query.name)
        case Kind.REGISTER:
            yield from state.conflicts(query.name)[:1]
        case Kind.SET:
            element = encode(query.item) if query.scope == Scope.ITEM else None
            yield from state.winners_in(query.name, element)
