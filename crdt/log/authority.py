"""Who may write what, by the entries of a log that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lattica.crdt.access.appointment import Appointment, decode_appointments
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.access.rights import Rights, Verdict
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Header, Kind
from lattica.crdt.keys.session import SessionCertificate, decode_certificate
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.prefix import FeedPrefix
from lattica.nat.base.errors import RemoteProtocolError


class Authority:
    """The rights that a log's entries give, and whether they have changed since the log was
    measured by them.

    Args:
        genesis: the document.
        feeds: what is admitted of each author.
    """

    def __init__(self, genesis: Genesis, feeds: Mapping[bytes, Feed]) -> None:
        self._genesis = genesis
        self._feeds = feeds
        self._forked: set[bytes] = set()
        """Sessions of owners that have contradicted themselves."""
        self.rights = None if genesis.mode is Mode.OPEN else self._no_rights()
        """Who may do what; None: everybody may write."""
        self.erasures = Erasures(genesis, feeds, self.rights)
        """What entries have go of others."""
        self.is_changed = False
        self.is_stale = False
        """Whether somebody else may own the document than was known when entries were learned."""
        self._is_less = False
        """Whether rights may have gone since the others were looked at."""
        self._has_other_effects = False

    def _no_rights(self) -> Rights:
        return Rights(self._genesis, Ownership(self._genesis, self._has_forked), self._ids_of)

    def _ids_of(self, author: bytes) -> Sequence[bytes]:
        feed = self._feeds.get(author)
        return () if feed is None else feed.ids

    def _has_forked(self, author: bytes) -> bool:
        feed = self._feeds.get(author)
        return feed is not None and feed.fork is not None

    # What is admitted.

    def learn(self, feed: Feed, entry: Entry) -> None:
        """Take what an admitted entry says of rights, and what it erases."""
        self.erasures.learn(entry, feed.identity)
        rights = self.rights
        if rights is None:
            return
        if entry.header.seq == 0:
            self.learn_certificate(entry)
            appointments = self.shown(entry)
            if appointments:
                rights.ownership.show(entry.id, feed.author, appointments)
                self.is_stale = True
        elif rights.learn(entry, feed.identity):
            self.is_changed = True
            self._is_less |= entry.header.kind == Kind.REVOKE
        self._note_final(rights, feed, entry)
        if feed.fork is not None:
            self.note_fork(feed)

    def _note_final(self, rights: Rights, feed: Feed, entry: Entry) -> None:
        """Whether more counts for good by an admitted entry, and what did not may take effect."""
        authors = rights.take_grown()
        if rights.is_named(entry.header):
            authors.add(feed.author)
        for author in authors:
            of = self._feeds[author]
            last = rights.finality.length(author) - 1
            self._has_other_effects |= last >= 0 and rights.has_more_effects(
                author, of.identity, last, of.ids[last]
            )

    def take_other_effects(self) -> bool:
        """Whether, since this was asked last, something counts for good that might have had no
        effect.
        """
        has, self._has_other_effects = self._has_other_effects, False
        return has

    def learn_certificate(self, entry: Entry) -> None:
        """Take the capability that a session's first entry shows. Raises RemoteProtocolError."""
        if self.rights is None or self._genesis.mode is not Mode.CAPABILITY:
            return
        certificate = self._certificate(entry)
        if certificate.capability:
            self.rights.learn_certificate(
                entry.header, certificate.identity, certificate.capability
            )

    def note_fork(self, feed: Feed) -> None:
        """An author contradicts himself, or more of what he wrote before that is here."""
        rights = self.rights
        if rights is None or not self._genesis.can_be_recovered:
            return
        if feed.author not in self._forked:
            if not feed.ids or rights.ownership.seat_of(feed.author, feed.identity) is None:
                return
            self._forked.add(feed.author)
        self.is_stale = True  # if he did so from the first entry on, he has frozen nobody

    def forget(self, feed: Feed, since: int) -> None:
        """Take back what those entries of a feed said that are about to go, from a number on."""
        entry_ids = feed.ids[since:]
        self.erasures.forget(entry_ids)
        if self.rights is not None:
            # What was called final by one of them is not final any more.
            self._is_less |= self.rights.finality.length(feed.author) > since
            for entry_id in entry_ids:
                self._is_less |= self.rights.forget(entry_id)
                self.is_stale |= self.rights.ownership.forget(entry_id)
            self.is_changed |= self._is_less

    def forget_unfounded(self, voucher_at: Callable[[bytes, int], Header | None]) -> None:
        """As :meth:`Rights.forget_unfounded`, where rights have gone."""
        if self._is_less and self.rights is not None:
            self.rights.forget_unfounded(voucher_at)
        self._is_less = False

    # Who owns the document.

    def check_certificate(self, certificate: SessionCertificate) -> None:
        """Raises RemoteProtocolError for appointments that are none, or not for this document."""
        if certificate.appointments:
            if not self._genesis.can_be_recovered:
                raise RemoteProtocolError("an appointment where nobody can be appointed")
            decode_appointments(certificate.appointments, self._genesis)

    def shown(self, entry: Entry) -> tuple[Appointment, ...]:
        """The appointments that a session's first entry shows. Raises RemoteProtocolError."""
        if entry.header.seq or not self._genesis.can_be_recovered:
            return ()
        appointments = self._certificate(entry).appointments
        return decode_appointments(appointments, self._genesis) if appointments else ()

    def verdict(self, feed: Feed, entry: Entry) -> Verdict:
        """Whether an entry that is not admitted may be."""
        if self.rights is None:
            return Verdict.ALLOWED
        return self.rights.verdict(entry.header, feed.identity, self.shown(entry))

    def settle(self) -> bool:
        """Go by who owns the document now; whether that is another one than before, so that what
        entries say is to be learned anew (:meth:`learn_anew`).
        """
        if not self.is_stale or self.rights is None:
            return False
        self.is_stale = False
        forks: dict[bytes, tuple[bytes, int]] = {}
        for author in self._forked:
            feed = self._feeds[author]
            seat = self.rights.ownership.seat_of(author, feed.identity)
            if feed.ids and seat is not None:
                forks[author] = seat, feed.hlc
        return self.rights.ownership.settle(forks)

    def learn_anew(self, entries: Iterable[Entry]) -> None:
        """Have only what these admitted entries say."""
        if self.rights is None:
            return
        self.rights.clear()
        self.erasures.begin_anew()
        for entry in entries:
            if entry.header.seq == 0:
                self.learn_certificate(entry)
            else:
                self.rights.learn(entry, self._feeds[entry.header.author].identity)
        self.is_changed = self._is_less = True

    def restore(self, entries: Sequence[Entry]) -> None:
        """Begin with what admitted entries say, and the forks that are known."""
        if self.rights is None:
            return
        for entry in entries:
            appointments = self.shown(entry)
            if appointments:
                self.rights.ownership.show(entry.id, entry.header.author, appointments)
        for feed in self._feeds.values():
            if feed.fork is not None:
                self.note_fork(feed)
        self.is_stale = True
        self.settle()
        self.learn_anew(entries)
        self.is_changed = self._is_less = False

    def _certificate(self, entry: Entry) -> SessionCertificate:
        header = entry.header
        return decode_certificate(entry.payload or b"", header.doc_id, header.author)


def ownership_by(genesis: Genesis, prefixes: Iterable[FeedPrefix]) -> Ownership:
    """Who owns a document by verified chains, and forks that are proved with them."""
    if not genesis.can_be_recovered:
        return Ownership(genesis)
    feeds: dict[bytes, Feed] = {}
    first: list[Entry] = []
    for prefix in prefixes:
        prefix.put_into(feeds.setdefault(prefix.author, Feed(prefix.author)))
        first += prefix.entries[:1]
    authority = Authority(genesis, feeds)
    authority.restore(first)
    return Ownership(genesis) if authority.rights is None else authority.rights.ownership
