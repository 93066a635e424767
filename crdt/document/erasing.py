"""Erasing what was written: who may, and what has to be written over first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from string import hexdigits
from typing import Final, TypeAlias

from lattica.crdt.access.keyring import NoReadKeyError
from lattica.crdt.compaction.dead import Sweep
from lattica.crdt.document.governance.rights import DocumentRights
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.document.listing import LogEntry
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.entries.erasure import (
    ERASABLE,
    MAX_REPLACED,
    MAX_TARGETS,
    Erasure,
    Target,
    target_of,
)
from lattica.crdt.entries.header import ID_BYTES, MAX_DEPS, Entry, Kind
from lattica.crdt.entries.remnant import entry_of
from lattica.crdt.types.payloads import (
    KINDS,
    ClaimWrite,
    CounterWrite,
    RegisterWrite,
    SetWrite,
    Write,
    decode_write,
    start_of,
)
from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError

Named: TypeAlias = LogEntry | bytes | str
"""An entry: as it is listed, its ID, or that in hexadecimal digits, or the first eight or more of
these."""
_LEAST_DIGITS: Final = 8
_TARGET_BYTES: Final = 74
_REPLACED_BYTES: Final = 34
"""Of an erasure, for each."""
_EVER: Final = 2**63
"""Milliseconds after any time."""


@dataclass(slots=True)
class _Batch:
    """What one entry erases."""

    targets: list[Target] = field(default_factory=list)
    replaced: set[bytes] = field(default_factory=set)
    deps: set[bytes] = field(default_factory=set)

    @property
    def payload(self) -> bytes:
        return Erasure(tuple(sorted(self.targets)), tuple(sorted(self.replaced))).encode()

    @property
    def size(self) -> int:
        """Bytes of the payload, at most."""
        return 8 + _TARGET_BYTES * len(self.targets) + _REPLACED_BYTES * len(self.replaced)

    def add(self, target: Target, replaced: set[bytes], deps: set[bytes], most: int) -> bool:
        """Erase one entry more, if there is room for it in `most` bytes."""
        more = _Batch([*self.targets, target], self.replaced | replaced, self.deps | deps)
        if self.targets and (
            len(more.targets) > MAX_TARGETS
            or len(more.replaced) > MAX_REPLACED
            or len(more.deps) > MAX_DEPS
            or more.size > most
        ):
            return False
        self.targets, self.replaced, self.deps = more.targets, more.replaced, more.deps
        return True


class Erasing:
    """Has payloads of a document go, for who writes here."""

    def __init__(self, writer: Writer, resolved: Resolved, rights: DocumentRights) -> None:
        self._writer = writer
        self._resolved = resolved
        self._rights = rights

    def erase(self, entries: Sequence[Named]) -> int:
        """As :meth:`Document.erase`."""
        self._writer.take_office()
        erasures = self._writer.replica.erasures
        targets = [each for each in self._found(entries) if not erasures.erases(each.header)]
        if not targets:
            return 0
        for each in targets:
            self._check_erasable(each)
        writes = {
            each.id: write for each in targets if (write := _said(self._opened(each))) is not None
        }
        self._rights.check_names([*writes.values()])
        self._check_not_standing(targets, writes)
        batches = self._batches(targets, writes)
        self._writer.write(
            [(Kind.ERASE, batch.payload) for batch in batches],
            [tuple(sorted(batch.deps)) for batch in batches],
        )
        return len(targets)

    def _batches(self, targets: Sequence[Entry], writes: Mapping[bytes, Write]) -> list[_Batch]:
        """What is to be written to erase these."""
        before, replica = self._before(targets, writes), self._writer.replica
        batches, room = [_Batch()], replica.genesis.limits.entry_bytes
        feed = replica.log.feeds.get(replica.writing_author())
        own = set(feed.ids) if feed is not None else set()
        for each in targets:
            write = writes.get(each.id)
            replaced = set(getattr(write, "replaced", ())) | before.get(each.id, set())
            parts = target_of(each.header), replaced, self._above(each, write, own)
            if not batches[-1].add(*parts, room):
                batches.append(_Batch())
                batches[-1].add(*parts, room)
        return batches

    # Which, and whether they may be.

    def _found(self, named: Iterable[Named]) -> list[Entry]:
        """The entries that somebody names. Raises LocalProtocolError."""
        for item in named:
            check_type("entries", item, (str, bytes, LogEntry), "IDs, or what `entries` lists")
        digits = [each if isinstance(each, str) else _id_of(each).hex() for each in named]
        for each in digits:
            if not _LEAST_DIGITS <= len(each) <= 2 * ID_BYTES or set(each) - set(hexdigits):
                raise LocalProtocolError(
                    f"an entry is named by its ID, or the first {_LEAST_DIGITS} of its 64 "
                    f"hexadecimal digits or more, not {each!r:.100}"
                )
        lengths = {len(each) // 2 for each in digits}
        prefixes = {bytes.fromhex(each[: len(each) // 2 * 2]) for each in digits}
        here = {
            each.id.hex(): each
            for each in self._writer.replica.database.found(
                lambda entry_id: any(entry_id[:length] in prefixes for length in lengths)
            )
        }
        found: dict[bytes, Entry] = {}
        for each in digits:
            entry = here.get(each.lower())
            if entry is None:
                matching = [entry_id for entry_id in here if entry_id.startswith(each.lower())]
                if not matching and self._is_erased_and_pruned(each.lower()):
                    continue
                if len(matching) != 1:
                    what = "several entries have" if matching else "no entry here has"
                    raise LocalProtocolError(f"{what} an ID that begins with {each}")
                entry = here[matching[0]]
            found[entry.id] = entry
        return [*found.values()]

    def _is_erased_and_pruned(self, digits: str) -> bool:
        """Whether an entry that is not here was pruned, and is erased. Raises LocalProtocolError if
        it was pruned and is not: what it had replaced, and has to stay so, is not in its header.
        """
        replica = self._writer.replica
        for feed in replica.log.feeds.values():
            for seq, entry_id in enumerate(feed.ids):
                if not entry_id.hex().startswith(digits):
                    continue
                prev = feed.ids[seq - 1] if seq else replica.genesis.doc_id
                for remnant in replica.database.remnants_at(feed.author, seq, 1):
                    entry = entry_of(remnant, replica.genesis.doc_id, feed.author, seq, prev)
                    if replica.erasures.erases(entry.header):
                        return True
                    raise LocalProtocolError(
                        f"entry {_short(entry)} was pruned here, and what it had replaced is not "
                        "known any more: who has written it, or an owner, erases it where it was "
                        "not pruned (the next time, erase first)"
                    )
        return False

    def _check_erasable(self, entry: Entry) -> None:
        header = entry.header
        if header.kind in (Kind.TEXT, Kind.LIST):
            raise LocalProtocolError(
                f"entry {_short(entry)} is an edit of a text or list: these are made of all their "
                "edits, and none of them can be erased"
            )
        if header.kind not in ERASABLE:
            raise LocalProtocolError(
                f"entry {_short(entry)} says who may do what, or what is erased: others rely on "
                "it, and it cannot be erased"
            )
        replica = self._writer.replica
        feed = replica.log.feeds.get(header.author)
        if feed is not None and feed.identity == self._writer.identity:
            return
        if replica.log.rights is not None and replica.log.rights.is_owner(self._writer.identity):
            self._writer.check_owner("erase what others have written")
        elif replica.log.rights is not None or self._writer.identity not in replica.genesis.owners:
            raise AccessDeniedError(
                f"entry {_short(entry)} is another peer's: who has written it erases it, or an "
                "owner of the document"
            )

    def _opened(self, entry: Entry) -> Entry:
        try:
            return replace(entry, payload=self._writer.replica.open_payload(entry))
        except NoReadKeyError:
            raise AccessDeniedError(
                f"entry {_short(entry)} is sealed with a key that is not here: whether it is still "
                "needed is not known"
            ) from None

    # What is needed.

    def _check_not_standing(self, targets: Sequence[Entry], writes: Mapping[bytes, Write]) -> None:
        """Raises LocalProtocolError for what the state needs."""
        standing, needed = self._resolved.state.standing(), set[bytes]()
        for author in {each.header.author for each in targets}:
            needed.update(self._needed_of(author, writes.values()))
        for each in targets:
            write = writes.get(each.id)
            if each.id in standing and isinstance(write, RegisterWrite):
                raise LocalProtocolError(
                    f"entry {_short(each)} is the value of the register {write.name!r}: write over "
                    "it first, or delete it"
                )
            if each.id in standing and isinstance(write, SetWrite):
                raise LocalProtocolError(
                    f"entry {_short(each)} says whether {write.element!r:.100} is in the set "
                    f"{write.name!r}: put it in or take it out again first"
                )
            if each.id in needed and isinstance(write, CounterWrite):
                raise LocalProtocolError(
                    f"entry {_short(each)} is what its session has added to the counter "
                    f"{write.name!r}: the same session adds to it again first"
                )
            if each.id in needed and isinstance(write, ClaimWrite):
                raise LocalProtocolError(
                    f"entry {_short(each)} is of the latest claim of its session to "
                    f"{write.item!r:.100} in {write.name!r}: the same session claims it again "
                    "first, after the end of that"
                )

    def _needed_of(self, author: bytes, writes: Iterable[Write]) -> Iterator[bytes]:
        """The IDs of an author's entries that the state needs of the counters and claims that are
        written to.
        """
        added = [each for each in writes if isinstance(each, CounterWrite | ClaimWrite)]
        replica = self._writer.replica
        sweep = Sweep(_EVER, (), replica.log.knows, {author: 0}, replica.erasures.erases)
        taken: dict[int, bytes] = {}
        for entry, _ in self._beside(author, added):
            sweep.take(entry)
            taken[entry.header.seq] = entry.id
        gone = {seq for _, seq in sweep.dead}
        yield from (entry_id for seq, entry_id in taken.items() if seq not in gone)

    def _beside(self, author: bytes, writes: Sequence[Write]) -> Iterator[tuple[Entry, Write]]:
        """An author's entries that take an effect where others of some writes do, opened."""
        replica = self._writer.replica
        places = {_place(each) for each in writes}
        starts = {start for _, start in places}
        lengths = {len(each) for each in starts}
        is_sealed = replica.genesis.is_sealed
        found = replica.database.saying(
            author, lambda said: is_sealed or any(said[:length] in starts for length in lengths)
        )
        for entry in found if places else ():
            opened = self._opened(entry)
            write = _said(opened)
            if (
                write is not None
                and _place(write) in places
                and replica.genesis.allows(entry.header.kind)
                and replica.has_effect(entry, write.name)
            ):
                yield opened, write

    # What stays of them.

    def _before(
        self, targets: Sequence[Entry], writes: Mapping[bytes, Write]
    ) -> dict[bytes, set[bytes]]:
        """By each of these, what the same session had written at its place before: it would stand
        there again.
        """
        placed = [each for each in writes.values() if isinstance(each, RegisterWrite | SetWrite)]
        found: dict[bytes, set[bytes]] = {}
        for author in {each.header.author for each in targets}:
            latest: dict[tuple[Kind, bytes], bytes] = {}
            for entry, write in self._beside(author, placed):
                place = _place(write)
                if entry.id in writes and place in latest:
                    found[entry.id] = {latest[place]}
                latest[place] = entry.id
        return found

    def _above(self, entry: Entry, write: Write | None, own: Set[bytes]) -> set[bytes]:
        """What other sessions have written because of which an entry is not needed: who has not
        heard of that waits with the erasure. `own` is what this session has written.
        """
        replica, state = self._writer.replica, self._resolved.state
        feeds = replica.log.feeds
        above: tuple[bytes, ...] = ()
        if isinstance(write, RegisterWrite):
            above = state.replaced_at(write.name)
        elif isinstance(write, SetWrite):
            above = state.replaced_in(write.name, write.element)
        elif write is not None and entry.header.author in feeds:
            above = (*feeds[entry.header.author].ids[-1:],)
        return {*list({*above} - own)[:MAX_DEPS]}


def _said(entry: Entry) -> Write | None:
    """What an opened entry writes; None if it takes no effect anyway."""
    try:
        return decode_write(entry.header.kind, entry.payload or b"")
    except RemoteProtocolError:
        return None


def _place(write: Write) -> tuple[Kind, bytes]:
    """Where a write stands, for its session."""
    return KINDS[type(write)], start_of(write)


def _id_of(named: LogEntry | bytes) -> bytes:
    return named.id if isinstance(named, LogEntry) else named


def _short(entry: Entry) -> str:
    return entry.id.hex()[:16]
