"""Pruning a document's history, and making snapshots of it, in turns.

Others write between the turns. What is pruned and what is in a snapshot is of the entries that
were there at the beginning; if what was there is withdrawn meanwhile, it begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.turns import Turns
from lattica.crdt.compaction.dead import Sweep
from lattica.crdt.compaction.lasting import Lasting
from lattica.crdt.compaction.snapshot import body_parts
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.types.state import State

logger = logging.getLogger(__name__)

_BATCH: Final = 128
"""Entries that are pruned, or items of a state, in a turn."""
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Point:
    """What a document was at some time."""

    heads: Mapping[bytes, tuple[int, bytes]]
    """How many entries of each author, and the ID of the newest."""
    cuts: int
    state: State
    tree: SearchTree


class History:
    """What of one document's entries is kept."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.cuts = 0
        """Counted up whenever entries are not there any more, or have no effect."""
        self.changes = 1
        """Counted up whenever something may not take effect any more, or a snapshot was taken. What
        was before this file was opened counts once."""
        self._was_pruned = False

    @property
    def losses(self) -> int:
        """As :meth:`Document.losses`."""
        # Who has got back all that he had pruned tells those who have not.
        self._was_pruned = self._was_pruned or self._replica.database.is_pruned()
        return self.changes if self._was_pruned else 0

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        """How many entries of each author are here, and the ID of the newest."""
        return {
            author: (len(feed.ids), feed.ids[-1])
            for author, feed in self._replica.log.feeds.items()
            if feed.ids
        }

    def prune(self, standing: Callable[[], set[bytes]], before_ms: int) -> Turns[int]:
        """Drop what the state does not need and is older; how many entries that were.

        `standing` gives the IDs of the writes that stand now, of registers and sets. Where there
        are rights, what an owner has called final is gone through as if nothing else were there.
        """
        for _ in range(_ATTEMPTS):
            cuts = self.cuts
            if self._replica.log.rights is None:
                dead = yield from self._dead(standing(), before_ms)
            else:
                dead = yield from self._dead_of_final(before_ms)
            if self.cuts == cuts:
                return (yield from self._drop(dead))
        logger.warning(
            "nothing is pruned: entries are withdrawn again and again file=%s",
            self._replica.database.path,
        )
        return 0

    def _drop(self, dead: Sequence[tuple[bytes, int]]) -> Turns[int]:
        cuts = self.cuts
        count = 0
        # In this order a write that was replaced goes after what it replaced, so that between
        # two turns, too, nothing comes back.
        for start in range(0, len(dead), _BATCH):
            if self.cuts != cuts:
                break
            batch: dict[bytes, list[int]] = {}
            for author, seq in dead[start : start + _BATCH]:
                batch.setdefault(author, []).append(seq)
            self._replica.prune({author: sorted(seqs) for author, seqs in batch.items()})
            self.cuts += 1
            cuts = self.cuts
            count += sum(map(len, batch.values()))
            yield
        return count

    def _dead(self, standing: set[bytes], before_ms: int) -> Turns[list[tuple[bytes, int]]]:
        """What can go, in the order in which it may."""
        replica = self._replica
        lengths = _lengths(self.heads())
        sweep = Sweep(
            before_ms,
            standing,
            replica.log.knows,
            lengths,
            lambda header: replica.erasures.erases(header),  # by what is known then
        )
        dead = yield from self._swept(sweep)
        return (yield from self._if_now_same(dead)) if dead else []

    def _dead_of_final(self, before_ms: int) -> Turns[list[tuple[bytes, int]]]:
        """The same where rights are given and taken back: of what counts whatever comes, by what
        takes effect whatever comes.
        """
        replica, feeds = self._replica, self._replica.log.feeds
        lasting = Lasting(replica)
        lengths = lasting.lengths()
        whole = yield from self._replay(lasting.state(), lengths)
        inside = {each for author in lengths for each in feeds[author].ids[: lengths[author]]}
        sweep = Sweep(
            before_ms,
            whole.standing(),
            inside.__contains__,
            lengths,
            lasting.is_erased,
            replica.open_payload,
            lasting.takes_effect,
        )
        dead = yield from self._swept(sweep)
        if dead:
            dead = yield from self._if_same(dead, whole, lasting.state(), lengths)
        return (yield from self._if_now_same(dead)) if dead else []

    def _swept(self, sweep: Sweep) -> Turns[list[tuple[bytes, int]]]:
        for batch in self._replica.database.batches_by_time(sweep.newest):
            for entry in batch:
                sweep.take(entry)
            yield
        return sweep.dead

    def _if_now_same(self, dead: list[tuple[bytes, int]]) -> Turns[list[tuple[bytes, int]]]:
        """As :meth:`_if_same`, of all that is here."""
        heads = self.heads()
        whole = yield from self.state(heads)
        empty = replica_state(self._replica)
        return (yield from self._if_same(dead, whole, empty, _lengths(heads)))

    def _if_same(
        self,
        dead: list[tuple[bytes, int]],
        whole: State,
        empty: State,
        lengths: Mapping[bytes, int],
    ) -> Turns[list[tuple[bytes, int]]]:
        """What is to go, if an empty state comes to the same as the whole without it; else
        nothing.
        """
        kept = yield from self._replay(empty, lengths, frozenset(dead))
        if (yield from collect(whole)) == (yield from collect(kept)):
            return dead
        path = self._replica.database.path
        logger.error("nothing is pruned: the state would be another file=%s", path)
        return []

    def _replay(
        self,
        state: State,
        lengths: Mapping[bytes, int],
        without: frozenset[tuple[bytes, int]] = frozenset(),
    ) -> Turns[State]:
        """Have a state be what entries come to, if some were not there."""
        database = self._replica.database
        yield from state.rebuilding(
            lambda: _without(database.batches_by_time(lengths), without),
            database.withdrawn_entries,
        )
        return state

    def state(self, heads: Mapping[bytes, tuple[int, bytes]]) -> Turns[State]:
        """What the entries that these heads name come to."""
        return self._replay(replica_state(self._replica), _lengths(heads))

    def point(self) -> Turns[Point]:
        """What the document is now."""
        heads, cuts = self.heads(), self.cuts
        state = yield from self.state(heads)
        tree = yield from SearchTree.making((yield from collect(state)))
        return Point(heads, cuts, state, tree)

    def is_at(self, point: Point) -> bool:
        """Whether the document is still what it was at a point."""
        return point.cuts == self.cuts and point.heads == self.heads()

    def body(self, heads: Mapping[bytes, tuple[int, bytes]]) -> Turns[list[bytes]]:
        """The parts of a snapshot, but the first, of what these heads name."""
        parts: list[bytes] = []
        bare: list[Entry] = []
        for author in sorted(self._replica.log.feeds):
            prefix = yield from self._prefix(author, heads.get(author, (0, b""))[0])
            bare += [each for each in prefix.entries if each.payload is None]
            for part in body_parts([prefix], ()):
                parts.append(part)
                yield
        withdrawn = [*self._replica.database.withdrawn_entries()]
        bare += [each for each in withdrawn if each.payload is None]
        # Those that are admitted are in the chains.
        shown = self._replica.shown_for(bare)
        shown = [each for each in shown if not self._replica.erasures.is_admitted(each)]
        parts += body_parts((), withdrawn, shown)
        return parts

    def _prefix(self, author: bytes, length: int) -> Turns[FeedPrefix]:
        """What a snapshot has of an author."""
        database, feed = self._replica.database, self._replica.log.feeds[author]
        entries: list[Entry] = []
        for batch in database.batches_by_time({author: length}):
            entries += batch
            yield
        remnants = database.remnants(author)
        return FeedPrefix(
            author, ids=feed.ids[:length], entries=entries, remnants=remnants, fork=feed.fork
        )


def replica_state(replica: Replica) -> State:
    """A state for the entries of a replica, by what is known there at any time."""
    return State(
        replica.genesis, replica.has_effect, replica.open_payload, lambda: replica.erasures
    )


def _lengths(heads: Mapping[bytes, tuple[int, bytes]]) -> dict[bytes, int]:
    return {author: length for author, (length, _) in heads.items()}


def _without(
    batches: Iterator[list[Entry]], without: frozenset[tuple[bytes, int]]
) -> Iterator[list[Entry]]:
    for batch in batches:
        yield [each for each in batch if (each.header.author, each.header.seq) not in without]


def collect(state: State) -> Turns[dict[bytes, bytes]]:
    """The items of a state that nobody changes meanwhile."""
    items: dict[bytes, bytes] = {}
    for key, value in state.items():
        items[key] = value
        if len(items) % _BATCH == 0:
            yield
    return items
