"""A document at one store: the log, and what is on disk of it, always of one mind.

Its calls block, for as long as the disk does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lattica.crdt.access.appointment import Appointment, encode_appointments
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.base.turns import Turns
from lattica.crdt.entries.erasure import Shown, erasure_of
from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.keys.session import SessionCertificate, SessionKey
from lattica.crdt.log.clock import NEVER_EARLY, wall_clock_ms
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.core import Log
from lattica.crdt.log.disk.arrival import Arrival
from lattica.crdt.log.disk.database import DocumentDatabase
from lattica.crdt.log.disk.salvage import salvage
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.log.errors import ContradictionError, StoreCorruptError
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.log.own import prepare
from lattica.crdt.log.prefix import FeedPrefix
from lattica.nat.base.keys.identity import Identity

logger = logging.getLogger(__name__)


class Replica:
    """The admitted entries of a document, in a file.

    A file that is damaged is moved aside, and a new one begun with what is good of it; the rest
    comes back from peers that have it.

    Args:
        path: the file; see :class:`DocumentDatabase`, which says what is raised.
        genesis: the document.
        identity: whose entries are written here.
        wall: milliseconds since 1970: when entries come here.
    """

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        identity: Identity,
        config: LogConfig | None = None,
        wall: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.genesis = genesis
        self._identity = identity
        self._config = config
        self._wall = wall
        self.keyring: Keyring | None = None
        """Of a sealed document: what can be read here."""
        self.capability = b""
        """By which sessions that begin here write, where a document asks for one."""
        self.appointments: tuple[Appointment, ...] = ()
        """By which this identity owns the document, as soon as that can be: it was handed them."""
        self._session: SessionKey | None = None
        self._is_told_of_clock = False
        damage = ""
        try:
            self._open(path)
        except StoreCorruptError as error:
            damage = f"{error}"
        if damage:  # with the error goes what it holds of the file, and SQLite's lock
            self._begin_anew(path, damage)

    def _begin_anew(self, path: Path, damage: str) -> None:
        aside = _move_aside(path)
        try:
            self._open(path)
            try:
                found = salvage(aside, self.genesis)
                with self.arrival() as arrival:
                    self.take_prefixes(
                        found.prefixes, found.withdrawn, NEVER_EARLY, arrival, found.shown
                    )
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            # There is no space, for example: it is tried again with the next opening.
            path.unlink(missing_ok=True)
            _move(aside, path)
            raise
        logger.warning("%s moved_to=%s entries_saved=%d", damage, aside, found.count)

    def _open(self, path: Path) -> None:
        self._database = DocumentDatabase(path, self.genesis, self._wall)
        try:
            self.log = self._load()
            self._session = self._database.session()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def author(self) -> bytes:
        """The session key under which is written; empty before the first entry of a session."""
        return self._session.author if self._session else b""

    def has_effect(self, entry: Entry, name: str) -> bool:
        """As :meth:`Log.has_effect`, of the log as it is when it is asked for."""
        return self.log.has_effect(entry, name)

    @property
    def erasures(self) -> Erasures:
        """What is erased, by the log as it is when it is asked for."""
        return self.log.erasures

    def shown_for(self, entries: Iterable[Entry]) -> list[Shown]:
        """The erasures because of which entries have no payloads, for whoever is given these."""
        found: dict[bytes, Shown] = {}
        for entry in entries:
            feed = self.log.feeds.get(entry.header.author)
            if entry.payload is not None or feed is None:
                continue
            shown = self.erasures.reason(entry.header, feed.identity)
            if shown is not None and shown.entry.id not in found:
                author = shown.entry.header.author
                certificate = shown.certificate or self._database.certificate(author)
                found[shown.entry.id] = replace(shown, certificate=certificate)
        return [*found.values()]

    def open_payload(self, entry: Entry) -> bytes | None:
        """What an entry says, of a sealed document too; see :meth:`Keyring.open`."""
        return entry.payload if self.keyring is None else self.keyring.open(entry)

    def present(self, capability: bytes, *, is_needed: bool) -> None:
        """Write by a capability; if it is needed, by a session that has it in its certificate."""
        if is_needed and capability != self.capability and self.log.length(self.author):
            self._begin_session()
        self.capability = capability

    @property
    def capability_to_come(self) -> bytes:
        """What the next session says that it writes by, if the next entry is its first."""
        session = self._session
        is_begun = session is not None and bool(self.log.length(session.author))
        return b"" if is_begun else self.capability

    def writing_author(self) -> bytes:
        """The session key under which the next entry is written; a new one if need be.

        Raises StoreFullError and StoreError.
        """
        return self._current_session().author

    def signing_session(self) -> tuple[SessionKey, SessionCertificate]:
        """The session key under which is written, and the identity's word for it.

        Raises StoreFullError and StoreError.
        """
        session = self._current_session()
        return session, session.certificate(self._identity, self.genesis.doc_id)

    @property
    def identity(self) -> Identity:
        """Whose entries are written here."""
        return self._identity

    @property
    def database(self) -> DocumentDatabase:
        """Where the entries are."""
        return self._database

    @property
    def next_seq(self) -> int:
        """The number of the entry that is written next under :meth:`writing_author`, behind the
        certificate.
        """
        feed = self.log.feeds.get(self.author)
        return len(feed.ids) if feed is not None and feed.ids else 1

    def write(
        self,
        payloads: Sequence[tuple[Kind, bytes]],
        now_ms: int,
        deps: Sequence[tuple[bytes, ...]] = (),
    ) -> Outcome:
        """Write entries, for each a kind and a payload, and the dependencies of each if there are
        any. They are on disk when it returns.

        Raises:
            LocalProtocolError: a payload is too large, or a dependency is not here.
            AccessDeniedError: there is no right to write.
            ResourceLimitError: this session's quota of the document is used up.
            StoreFullError, StoreError: they cannot be kept, and nothing has happened.
        """
        session = self._current_session()
        items = [
            (kind, payload, deps[number] if deps else ())
            for number, (kind, payload) in enumerate(payloads)
        ]
        return self._write(session, items, now_ms)

    def take_office(self, now_ms: int) -> Outcome | None:
        """Begin a session that owns the document by what was appointed, if none has begun and
        that can be; what comes of it. What it writes comes after that. Raises what :meth:`write`
        does.
        """
        office, session = self._office(), self._current_session()
        if not office or self.log.length(session.author):
            return None
        return self._write(session, (), now_ms, encode_appointments(office))

    @property
    def shown(self) -> bytes:
        """What peers are shown who might not know that this identity may read."""
        office = self._office() or self.appointments
        return encode_appointments(office) if office else self.capability

    def _office(self) -> tuple[Appointment, ...]:
        """By what this identity owns the document, or can from now on."""
        rights, identity = self.log.rights, self._identity.public_key.data
        if rights is None:
            return ()
        handed = self.appointments
        if handed and rights.ownership.may_take_office(identity, handed):
            return handed
        return rights.ownership.appointed(identity)

    def _write(
        self,
        session: SessionKey,
        items: Sequence[tuple[Kind, bytes, tuple[bytes, ...]]],
        now_ms: int,
        appointments: bytes = b"",
    ) -> Outcome:
        entries = prepare(
            self.log, session, self._identity, items, now_ms, self.capability, appointments
        )
        identity = self._identity.public_key.data
        found = (erasure_of(entry, identity) for entry in entries)
        erasures = [each for each in found if each is not None]
        erased = [entry for each in erasures for entry in self.log.erased_by(each)]
        self._database.keep_own(entries, identity, erasures, erased)
        outcome = self.log.commit(entries, identity, now_ms)
        outcome.erased_here += erased
        if len(outcome.admitted) > len(entries) or outcome.withdrawn or outcome.has_other_owners:
            return self._kept(outcome)
        self._learn_keys(outcome)
        return outcome

    def receive(
        self,
        entries: Sequence[Entry],
        peer: object,
        now_ms: int,
        now: float,
        shown: Sequence[Shown] = (),
    ) -> Outcome:
        """Take a verified chain; see :meth:`Log.receive`. What it admits is kept.

        Raises:
            RemoteProtocolError: see there.
            StoreFullError, StoreError: it cannot be kept, and nothing has happened.
        """
        last = entries[-1].header
        self._leave_what_is_lost([(last.author, last.id)])
        return self._kept(self.log.receive(entries, peer, now_ms, now, shown))

    def receive_fork(self, proof: ForkProof, now_ms: int) -> Outcome:
        """Take a verified proof; see :meth:`Log.receive_fork`. Raises what :meth:`receive` does."""
        return self._kept(self.log.receive_fork(proof, now_ms))

    def prune(self, dead: Mapping[bytes, Sequence[int]]) -> None:
        """Keep only the remnants of these entries; see :meth:`DocumentDatabase.prune`."""
        self._database.prune(dead)

    def arrival(self) -> Arrival:
        """What is to be written of a snapshot, so that :meth:`take_prefixes` need not."""
        return self._database.arrival()

    def bringing(self, arrival: Arrival, prefixes: Iterable[FeedPrefix]) -> Turns[None]:
        """Write, in turns, what a snapshot has of authors who are not here; nothing of it counts.
        Where there are rights and entries, it is not known yet what of it they cover.

        Raises StoreFullError and StoreError.
        """
        feeds = self.log.feeds
        if self.log.rights is None or not feeds:
            yield from arrival.bringing(each for each in prefixes if each.author not in feeds)

    def take_prefixes(
        self,
        prefixes: Sequence[FeedPrefix],
        withdrawn: Sequence[Entry],
        now_ms: int,
        arrival: Arrival,
        shown: Sequence[Shown] = (),
    ) -> bool:
        """Take what a verified snapshot has, which its own rights cover. Where there are others
        here, that is what all of them cover put together. Returns whether anything has changed.

        Raises:
            ContradictionError: an author has other entries there than here, or a fork of his that
                is proved here is not known there.
            StoreFullError, StoreError: it cannot be kept, and nothing has happened.
        """
        for prefix in prefixes:
            feed = self.log.feeds.get(prefix.author) or Feed(prefix.author)
            shorter = min(len(feed.ids), len(prefix.ids))
            if feed.ids[:shorter] != prefix.ids[:shorter]:
                raise ContradictionError("a snapshot with other entries of an author than here")
        known = {feed.author: feed.fork for feed in self.log.feeds.values()}
        for prefix in prefixes:
            fork = known.get(prefix.author)
            if fork is not None and (prefix.fork is None or prefix.fork.seq > fork.seq):
                raise ContradictionError("a snapshot that does not know of a fork")
        self._leave_what_is_lost([(each.author, each.ids[-1]) for each in prefixes if each.ids])
        self._leave_what_is_lost([(each.header.author, each.id) for each in withdrawn])
        if self.log.rights is not None and self.log.feeds:
            return self._take_covered(prefixes, withdrawn, now_ms, shown)
        arrival.take(prefixes, withdrawn, shown)
        log = self.log.with_prefixes(prefixes, withdrawn)
        if log is not None:
            self._complete(log)
        self.log = log or self._load()
        return True

    def _take_covered(
        self,
        prefixes: Sequence[FeedPrefix],
        withdrawn: Sequence[Entry],
        now_ms: int,
        shown: Sequence[Shown],
    ) -> bool:
        """Take of a snapshot what rights cover, whether they are in it or here."""
        filled: list[Entry] = []
        for prefix in prefixes:
            gone = self._database.gone(prefix.author) if self.log.length(prefix.author) else {}
            filled += (each for each in prefix.entries if each.header.seq in gone)
        outcome = self.log.receive_whole(prefixes, withdrawn, now_ms, shown, filled)
        authors = outcome.pruned.union(each.header.author for each in outcome.filled)
        parts = (each for each in prefixes if each.author in authors)
        self._kept(outcome, [each.up_to(self.log.length(each.author)) for each in parts])
        return outcome.is_news

    def advance(self, now_ms: int) -> Outcome:
        """Admit what was early; see :meth:`Log.advance`. Raises what :meth:`receive` does."""
        self._database.wipe()
        behind = self.log.behind(now_ms)
        if behind and not self._is_told_of_clock:
            logger.warning(
                "the clock here seems to be %.0f s behind those of most who write; what they write "
                "is taken when it has come so far file=%s",
                behind / 1000,
                self._database.path,
            )
        self._is_told_of_clock = bool(behind)
        return self._kept(self.log.advance(now_ms))

    def _kept(self, outcome: Outcome, prefixes: Sequence[FeedPrefix] = ()) -> Outcome:
        if not outcome.is_news:
            return outcome
        admitted, prefixes = [*outcome.admitted, *outcome.filled], [*prefixes, *self.log.regained()]
        authors = {each.header.author for each in (*admitted, *outcome.tombstones)}
        try:
            self._database.keep(
                admitted,
                {author: self.log.feeds[author].identity for author in authors},
                outcome.forks,
                outcome.tombstones,
                outcome.resigned,
                outcome.withdrawn,
                outcome.erasures,
                outcome.erased,
                outcome.restored,
                prefixes,
            )
        except BaseException:
            # What is in memory only must not be built upon.
            self.log = self._load()
            raise
        self.log.note_kept()
        self._learn_keys(outcome)
        return outcome

    def _learn_keys(self, outcome: Outcome) -> None:
        if self.keyring is None:
            return
        is_less = outcome.withdrawn or outcome.forks or outcome.tombstones
        if is_less or outcome.has_other_owners:
            self.keyring = load_keyring(self.log, self._database, self._identity)
            return
        for entry in outcome.admitted:
            self.keyring.learn(entry, self.log.feeds[entry.header.author].identity)

    def _load(self) -> Log:
        log = load_log(self.genesis, self._database, self._config)
        self._complete(log)
        return log

    def _complete(self, log: Log) -> None:
        """Have a log know what is erased, and the payloads go that are still there; and the
        keyring what the log has.
        """
        erased = log.restore_erasures(self._database.erasures())
        if erased:
            self._database.erase(erased)
        if self.genesis.is_sealed:
            self.keyring = load_keyring(log, self._database, self._identity)

    def _current_session(self) -> SessionKey:
        session = self._session
        feed = self.log.feeds.get(session.author) if session else None
        is_over = feed is not None and (feed.fork is not None or feed.is_cut)
        if session is None or is_over or (feed is not None and self._is_former(feed)):
            return self._begin_session()
        return session

    def _is_former(self, feed: Feed) -> bool:
        """Whether a session has begun without the appointment by which this identity owns the
        document, or can.
        """
        rights, office = self.log.rights, self._office()
        if rights is None or not feed.ids or not office:
            return False
        return rights.ownership.seat_of(feed.author, feed.identity) != office[-1].id

    def _leave_what_is_lost(self, heard: Iterable[tuple[bytes, bytes]]) -> None:
        """Go on as another session if others have entries of this one, by author and ID, that are
        not here: the file is of an earlier day. That is to be on disk before they are kept: as soon
        as they are, nothing says so any more.
        """
        own = self.author
        if any(author == own and not self.log.knows(entry_id) for author, entry_id in heard):
            logger.warning(
                "peers have entries of this store that it has lost; it goes on as another session "
                "file=%s",
                self._database.path,
            )
            self._begin_session()

    def _begin_session(self) -> SessionKey:
        session = SessionKey.generate()
        self._database.begin_session(session)
        self._session = session
        return session


def load_log(genesis: Genesis, database: DocumentDatabase, config: LogConfig | None = None) -> Log:
    """The log of what is kept. Raises StoreError."""
    log = Log(
        genesis,
        database.entry,
        config,
        database.withdrawn_at,
        database.entries_about_rights,
        database.remnants_at,
        database.withdrawn_remnants_at,
    )
    log.restore(*database.load())
    if log.rights is not None:
        log.restore_rights(database.entries_about_rights())
    return log


def load_keyring(log: Log, database: DocumentDatabase, identity: Identity) -> Keyring:
    """The read keys that an identity has by what is kept. Raises StoreError."""
    ownership = log.rights.ownership if log.rights is not None else None
    keyring = Keyring(log.genesis, identity, ownership)
    for entry, is_admitted in database.entries_about_keys():
        by = log.feeds[entry.header.author].identity
        keyring.learn(entry, by, is_admitted=is_admitted)
    return keyring


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    _move(path, aside)
    return aside


def _move(path: Path, to: Path) -> None:
    """Move a file, with what is not in it yet."""
    with suppress(FileNotFoundError):
        os.replace(path.with_name(path.name + "-wal"), to.with_name(to.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    os.replace(path, to)
