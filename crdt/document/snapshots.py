"""What of a document's history can go, and what stands in for it: snapshots, made and taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Final

from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.compaction.adoption import (
    check_authors,
    check_final,
    check_limits,
    is_news,
    leave_out_early,
    leave_out_unfounded,
    replay,
)
from lattica.crdt.compaction.history import History
from lattica.crdt.compaction.snapshot import (
    MAX_STATEMENTS,
    Snapshot,
    body_digest,
    first_part,
    reading_snapshot,
)
from lattica.crdt.document.feeds import Feeds
from lattica.crdt.document.governance.finality import DocumentFinality
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.document.statements import Statements
from lattica.crdt.keys.identities import identity_key, peer_of
from lattica.crdt.log.authority import ownership_by
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.proofs.statement import SignedStatement, read_statement
from lattica.nat.base.checks import check_count, check_several, check_type
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

_GRACE: Final = "a number of seconds, 0 or more"
_PARTS: Final = "the parts of a snapshot, each bytes"


class Snapshots:
    """The snapshots of a document, and its pruning.

    Args:
        replica: its entries.
        history: what of them is kept.
        resolved: what they come to.
        feeds: what others are told of them.
        statements: signs for what is made.
        finality: says what of it counts for good.
        wall: milliseconds since 1970.
        on_taken: is called when a snapshot was taken.
    """

    def __init__(
        self,
        replica: Replica,
        history: History,
        resolved: Resolved,
        feeds: Feeds,
        statements: Statements,
        finality: DocumentFinality,
        *,
        wall: Callable[[], int],
        on_taken: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._history = history
        self._resolved = resolved
        self._feeds = feeds
        self._statements = statements
        self._finality = finality
        self._wall = wall
        self._on_taken = on_taken

    def pruning(self, grace: float = 7 * 86_400) -> Turns[int]:
        """As :meth:`Document.pruning`."""
        check_type("grace", grace, Real, _GRACE)
        if isinstance(grace, bool) or not 0 <= grace < math.inf:
            raise LocalProtocolError(f"grace: {_GRACE}, not {grace!r}")
        before = self._wall() - int(grace * 1000)
        if self._replica.log.rights is not None:
            yield from self._finality.declaring(before)
        return (yield from self._history.prune(lambda: self._resolved.state.standing(), before))

    def snapshot(self, others: Sequence[SignedStatement] = ()) -> tuple[bytes, ...]:
        """As :meth:`Document.snapshot`."""
        body = finish(self._history.body(self._history.heads()))
        root = self._statements.root_of(finish(self._resolved.point()))
        return self._signed(self._history.heads(), root, body, others)

    def making_snapshot(self, others: Sequence[SignedStatement] = ()) -> Turns[tuple[bytes, ...]]:
        """As :meth:`Document.making_snapshot`."""
        for _ in range(3):
            cuts = self._history.cuts
            point = yield from self._resolved.point()
            root = self._statements.root_of(point)
            body = yield from self._history.body(point.heads)
            if self._history.cuts == cuts:
                return self._signed(point.heads, root, body, others)
        return self.snapshot(others)

    def _signed(
        self,
        heads: Mapping[bytes, tuple[int, bytes]],
        root: bytes,
        body: Sequence[bytes],
        others: Sequence[SignedStatement],
    ) -> tuple[bytes, ...]:
        """A snapshot, signed by this store and others. Raises LocalProtocolError for what nobody
        would take.
        """
        if len(others) >= MAX_STATEMENTS:
            raise LocalProtocolError(
                f"others: up to {MAX_STATEMENTS - 1} sign a snapshot beside its maker, "
                f"not {len(others)}"
            )
        digest, doc_id = body_digest(body), self._replica.genesis.doc_id
        mine = self._statements.say(heads, root, digest)
        for each in others:
            if each.statement.state != mine.statement.state or not _is_of(each, doc_id, digest):
                raise LocalProtocolError(
                    f"others: what {peer_of(each.certificate.identity)} has signed is not this "
                    "snapshot: one of something else, or no `countersign`"
                )
        return first_part([mine, *others]), *body

    def countersign(self, parts: Sequence[bytes]) -> SignedStatement:
        """As :meth:`Document.countersign`."""
        check_several("parts", parts, _PARTS)
        body = finish(self._history.body(self._history.heads()))
        if list(parts[1:]) != body:
            raise LocalProtocolError("a snapshot of something else than what is here")
        return self._statements.statement(of=body_digest(body))

    def reading(
        self, parts: Iterable[bytes], signers: Collection[PeerId | str | bytes], needed: int
    ) -> Turns[Snapshot]:
        """What is in a snapshot; see :meth:`Document.receiving_snapshot`."""
        check_several("parts", parts, _PARTS)
        check_several("signers", signers, "a list of peers")
        check_count("needed", needed)
        believed = [*map(identity_key, signers)] or self._owners
        return reading_snapshot(map(_part, parts), self._replica.genesis.doc_id, believed, needed)

    def _owners(self, feeds: Mapping[bytes, FeedPrefix]) -> frozenset[bytes]:
        """Who owns the document by what is here, or by what a snapshot has: by that somebody may
        have been appointed of whom nothing is here. Raises LocalProtocolError if nobody does.
        """
        rights = self._replica.log.rights
        here = rights.ownership.owners if rights is not None else frozenset[bytes]()
        owners = here | ownership_by(self._replica.genesis, feeds.values()).owners
        if not owners:
            raise LocalProtocolError(
                "signers: this document has no owners, so name the peers whose word you take that "
                "a snapshot is what it comes to (signers=[peer])"
            )
        return owners

    def adopting(self, read: Snapshot) -> Turns[None]:
        """As :meth:`Document.adopting`."""
        genesis, identity = self._replica.genesis, self._replica.identity
        now, config = self._wall(), self._replica.log.config
        leave_out_unfounded(read, genesis)
        if not (yield from is_news(read, self._replica.log, self._replica.database.gone)):
            return
        check_authors(read, config, self._replica.log.feeds)
        check_limits(read, genesis)
        check_final(read, genesis)
        state, tree = yield from replay(read, genesis, identity, config)
        is_less = yield from leave_out_early(read, genesis, config, now)
        if is_less and not (
            yield from is_news(read, self._replica.log, self._replica.database.gone)
        ):
            return
        prefixes = list(read.feeds.values())
        with self._replica.arrival() as arrival:
            yield from self._replica.bringing(arrival, prefixes)
            log = self._replica.log
            check_authors(read, config, log.feeds)  # others may have come meanwhile
            is_fresh = not log.feeds
            if not self._replica.take_prefixes(prefixes, read.withdrawn, now, arrival, read.shown):
                return
        self._history.cuts += 1
        self._history.changes += 1
        self._feeds.forget()
        self._resolved.forget()
        if is_fresh and not is_less:
            self._resolved.begin_with(state, tree)
        try:
            yield from self._resolved.settle()
        finally:
            self._on_taken()


def _is_of(signed: SignedStatement, doc_id: bytes, digest: bytes) -> bool:
    """Whether it is signed about the body of a snapshot."""
    try:
        read_statement(signed.plain, doc_id, digest, needs_root=False)
    except RemoteProtocolError:
        return False
    return True


def _part(part: bytes) -> bytes:
    check_type("parts", part, bytes, _PARTS)
    return part
