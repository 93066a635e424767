"""What the erasures of a log erase. Pure.

An erasure acts while it is admitted, on entries that the same identity has written, or on anybody's
if its author acts as an owner. What it names is erased from then on, wherever that stands: replicas
with the same entries read the same of them. One that does not act any more, or not yet, still
vouches for entries whose payloads are gone because of it: their chains can be taken without.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, takewhile
from typing import Protocol

from lattica.crdt.access.rights import Rights
from lattica.crdt.entries.erasure import ERASABLE, Shown, Target, erasure_of, target_of
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Header
from lattica.crdt.log.prefix import FeedPrefix


class _Session(Protocol):
    """A session, of which it is known whose it is."""

    identity: bytes


class Erasures:
    """The erasures that are known of a document.

    Args:
        genesis: the document.
        sessions: by author, whose entries they are.
        rights: who may do what; None: everybody may write.
    """

    def __init__(
        self, genesis: Genesis, sessions: Mapping[bytes, _Session], rights: Rights | None
    ) -> None:
        self._genesis = genesis
        self._sessions = sessions
        self._rights = rights
        self._known: dict[bytes, Shown] = {}
        """By ID."""
        self._admitted: set[bytes] = set()
        self._by_target: dict[tuple[Target, bytes], list[Shown]] = {}
        """By a target and whose they are, the latest first: those of others than its author and
        owners have no effect, and are to cost nothing, however many there are.
        """
        self._by_replaced: dict[bytes, list[Shown]] = {}
        self._offered: dict[tuple[Target, bytes], list[Shown]] = {}
        """What comes with a chain, and is kept if something is taken because of it."""
        self._fresh: list[Shown] = []
        self._changed: list[Shown] = []

    def __bool__(self) -> bool:
        return bool(self._known or self._offered)

    def __iter__(self) -> Iterator[Shown]:
        return iter([*self._known.values()])

    # What comes in.

    def learn(self, entry: Entry, identity: bytes) -> None:
        """Take an admitted entry of an identity, if it is an erasure."""
        shown = erasure_of(entry, identity)
        if shown is not None:
            self.keep(shown)
            self._admitted.add(entry.id)
            self._changed.append(shown)

    def keep(self, shown: Shown) -> None:
        """Know of an erasure that need not be admitted."""
        if shown.entry.id in self._known:
            return
        self._known[shown.entry.id] = shown
        self._fresh.append(shown)
        for target in shown.erasure.targets:
            named = self._by_target.setdefault((target, shown.identity), [])
            insort(named, shown, key=lambda each: (-each.entry.header.hlc, each.entry.id))
        for entry_id in shown.erasure.replaced:
            self._by_replaced.setdefault(entry_id, []).append(shown)

    def forget(self, entry_ids: Iterable[bytes]) -> None:
        """Entries were withdrawn: those among them that erase do not act any more."""
        for entry_id in self._admitted.intersection(entry_ids):
            self._admitted.discard(entry_id)
            self._changed.append(self._known[entry_id])

    def begin_anew(self) -> None:
        """Somebody else owns the document: others of them may act."""
        self._changed = [*self._known.values()]

    @contextmanager
    def offered(self, shown: Iterable[Shown]) -> Iterator[None]:
        """While something is taken, these may be the reason why it lacks payloads."""
        for each in shown:
            for target in each.erasure.targets:
                self._offered.setdefault((target, each.identity), []).append(each)
        try:
            yield
        finally:
            self._offered = {}

    def use_offered(self, header: Header) -> None:
        """An entry was taken without its payload: keep what vouches for that."""
        shown = self.reason(header)
        if shown is not None:
            self.keep(shown)

    def take_fresh(self) -> list[Shown]:
        """Those that have become known since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def take_changed(self) -> list[Shown]:
        """Those that may act since this was asked last, and did not, or the other way round."""
        changed, self._changed = self._changed, []
        return changed

    # What follows from it.

    def is_admitted(self, shown: Shown) -> bool:
        """Whether an erasure is in the log, and not only shown."""
        return shown.entry.id in self._admitted

    def erases(self, header: Header) -> bool:
        """Whether an entry is erased: it takes no effect, and its payload goes."""
        session = self._sessions.get(header.author) if self._by_target else None
        return session is not None and any(
            each.entry.id in self._admitted and self.may_erase(each, header)
            for each in self._naming(header, session.identity)
        )

    def _naming(self, header: Header, identity: bytes) -> Iterator[Shown]:
        """The erasures later than an entry of an identity that name it, of those who may."""

        def is_later(shown: Shown) -> bool:
            return shown.entry.header.hlc > header.hlc

        for by in (identity, *sorted({*self._owners} - {identity})):
            named = target_of(header), by
            yield from takewhile(is_later, self._by_target.get(named, ()))
            yield from filter(is_later, self._offered.get(named, ()))

    @property
    def _owners(self) -> Collection[bytes]:
        """Who is an owner, or was one."""
        if self._rights is None:
            return self._genesis.owners
        return self._rights.ownership.all_owners

    def may_concern(self, shown: Shown, author: bytes) -> bool:
        """Whether :meth:`may_erase` may say yes to entries of an author: whoever erases what he has
        no say in is to cost no look at that.
        """
        session = self._sessions.get(author)
        return session is not None and (
            session.identity == shown.identity or shown.identity in self._owners
        )

    def may_erase(self, shown: Shown, header: Header) -> bool:
        """Whether an erasure erases an entry that it names, if it is admitted."""
        session, by = self._sessions.get(header.author), shown.entry.header
        if session is None or by.hlc <= header.hlc or header.kind not in ERASABLE:
            return False
        if session.identity == shown.identity:
            return True
        if self._rights is None:
            return shown.identity in self._genesis.owners
        return self._rights.ownership.acts(by, shown.identity)

    def replaces(self, entry: Entry, name: str) -> bool:
        """Whether a write at a name is replaced by an erasure: something that is erased had
        replaced it.
        """
        named = self._by_replaced.get(entry.id) if self._by_replaced else None
        return named is not None and any(
            each.entry.id in self._admitted
            and entry.header.hlc < each.entry.header.hlc
            and (
                self._rights is None
                or self._rights.may_write(each.entry.header, each.identity, name)
            )
            for each in named
        )

    def is_whole(self, entry: Entry, identity: bytes | None = None) -> bool:
        """Whether an entry has its payload, or something says why not; see :meth:`reason`."""
        return entry.payload is not None or self.reason(entry.header, identity) is not None

    def reason(self, header: Header, identity: bytes | None = None) -> Shown | None:
        """The erasure because of which an entry has no payload, be it one that does not act, or has
        just been offered; None if there is none. `identity` is whose the entry is, if its session
        need not be known here.
        """
        if header.kind not in ERASABLE:
            return None
        if identity is None:
            session = self._sessions.get(header.author)
            identity = session.identity if session is not None else b""
        # One that stands in the log is there for whoever asks.
        in_log = filter(self.is_admitted, self._naming(header, identity))
        return next(chain(in_log, self._naming(header, identity)), None)


def erasures_in(
    genesis: Genesis, prefixes: Mapping[bytes, FeedPrefix], shown: Iterable[Shown]
) -> Erasures:
    """What is erased in chains of a document, as far as nobody's rights are asked for; `shown` are
    erasures beside those in them.
    """
    erasures = Erasures(genesis, prefixes, None)
    for each in shown:
        erasures.keep(each)
    for prefix in prefixes.values():
        for entry in prefix.entries:
            erasures.learn(entry, prefix.identity)
    return erasures
