"""What the entries of a document come to: its state, and the tree that names it by a hash."""

from __future__ import annotations

from itertools import islice
from typing import Final

from lattica.crdt.access.keyring import Keyring
from lattica.crdt.base.turns import Turns
from lattica.crdt.compaction.history import History, Point, replica_state
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.types.state import Change, State
from lattica.nat.base.errors import AccessDeniedError

_PLACES: Final = 1024
"""Of which a turn collects what is there."""
_READ_ANEW: Final = 4
"""Times that a state is resolved in turns, if entries come meanwhile; then when it is read."""


class Resolved:
    """The state of a document, resolved when it is read, or in turns before."""

    def __init__(self, replica: Replica, history: History) -> None:
        self._replica = replica
        self._history = history
        self._state = replica_state(replica)
        self._tree: SearchTree | None = None
        self._read_with: tuple[Keyring, tuple[int, int]] | None = None
        self._version = 0
        """Counted up whenever the state may be another one."""
        self.is_stale = True
        """Whether it is resolved anew when it is read."""

    @property
    def state(self) -> State:
        """As :meth:`Document.state`."""
        self.check_readable()
        return self.anew()

    def check_readable(self) -> None:
        """Raises AccessDeniedError if nothing of it can be read here."""
        keyring = self._replica.keyring
        if keyring is not None and keyring.is_empty:
            raise AccessDeniedError(
                "this peer has the document, and no right to read it, or nobody has sealed a read "
                "key to it yet"
            )

    @property
    def reads_all(self) -> bool:
        """Whether all that is here can be read, with the read keys that are here."""
        keyring = self._replica.keyring
        return keyring is None or (not keyring.is_empty and not self.anew().unread)

    def anew(self) -> State:
        """The state, be there a right to read it or not."""
        if self.is_stale:
            database = self._replica.database
            self._state.rebuild(database.all_entries, database.withdrawn_entries)
            self.is_stale = False
        return self._state

    def resolving(self) -> Turns[None]:
        """As :meth:`Document.resolving`."""
        for _ in range(_READ_ANEW):
            if not self.is_stale:
                return
            heads, cuts = self._history.heads(), self._history.cuts
            state = yield from self._history.state(heads)
            if self._history.cuts == cuts and self._history.heads() == heads:
                self._state, self.is_stale = state, False

    def tree(self) -> SearchTree:
        """What can be proved of the state. Raises what :attr:`state` does."""
        state = self.state
        if self._tree is None:
            self._tree = SearchTree(dict(state.items()))
        return self._tree

    def point(self) -> Turns[Point]:
        """What the document is now, in turns."""
        if self._tree is not None:
            return Point(self._history.heads(), self._history.cuts, self._state, self._tree)
        point = yield from self._history.point()
        if self._history.is_at(point):
            if self.is_stale:
                self._state, self.is_stale = point.state, False
            self._tree = point.tree
        return point

    def recent(self) -> Turns[Point]:
        """What the document was at some time meanwhile, in turns; for less than :meth:`point` where
        it is resolved and not written to.
        """
        for _ in range(_READ_ANEW):
            if self.is_stale or self._tree is not None:
                break
            yield from self._grow()
        return (yield from self.point())

    def _grow(self) -> Turns[None]:
        """Make the tree of the state that is here, in turns, unless something comes meanwhile."""
        version, pairs = self._version, self._state.items()
        items: dict[bytes, bytes] = {}
        while batch := dict(islice(pairs, _PLACES)):
            items |= batch
            yield
            if self._version != version:
                return
        tree = yield from SearchTree.making(items)
        if self._version == version:
            self._tree = tree

    def settle(self) -> Turns[None]:
        """Resolve it in turns, with its tree. If entries come meanwhile, again, a few times."""
        for _ in range(_READ_ANEW):
            yield from self.point()
            if not self.is_stale:
                break  # nothing has come meanwhile

    def forget(self) -> None:
        """Have it resolved anew, by what is in the file."""
        self.is_stale, self._tree = True, None
        self._version += 1

    def begin_with(self, state: State, tree: SearchTree) -> None:
        """Take what somebody else has resolved, of just what is in the file."""
        replica = self._replica  # which says more of what comes next
        state.go_on(replica.has_effect, replica.open_payload, lambda: replica.erasures)
        self._state, self._tree, self.is_stale = state, tree, False
        self._version += 1

    def take(self, outcome: Outcome) -> tuple[Change, ...]:
        """Go on by what a log has admitted and withdrawn; what changed, as far as it is known."""
        if outcome.forks or outcome.withdrawn or outcome.tombstones or outcome.resigned:
            self._history.cuts += 1
        self._history.changes += outcome.may_lose
        if outcome.erased or outcome.restored or outcome.erasures or outcome.acting:
            self._history.cuts += 1
            self.is_stale |= self._is_erased(outcome)
        is_other = outcome.forks or outcome.withdrawn or outcome.has_revived
        if self._reads_more() or is_other or outcome.says_rights:
            # Resolved anew when it is read: who makes many forks makes few of these.
            self.is_stale = True
        if outcome.is_news:
            self._version += 1
        if outcome.forks or outcome.admitted or outcome.withdrawn or self.is_stale:
            self._tree = None
        if self.is_stale:
            return ()
        for entry in outcome.tombstones:
            self._state.withdraw(entry)
        applied = (self._state.apply(entry) for entry in outcome.admitted)
        changes = tuple(change for change in applied if change is not None)
        self.is_stale = not self._state.is_settled
        return changes

    def _is_erased(self, outcome: Outcome) -> bool:
        """Whether the state may be another one by what is erased, or has its payload again. Who
        erases here has made sure that it is not; of what others erase, whatever that had replaced
        may stand again.
        """
        if outcome.erased or outcome.restored or self.is_stale:
            return True
        replaced = {each for shown in outcome.acting for each in shown.erasure.replaced}
        return bool(replaced) and not replaced.isdisjoint(self._state.standing())

    def _reads_more(self) -> bool:
        """Whether there are other read keys than when this was asked last."""
        keyring = self._replica.keyring
        before = self._read_with
        self._read_with = None if keyring is None else (keyring, keyring.extent)
        return before != self._read_with
