"""Verifying all that is in a document's file, as if a stranger had written it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lattica.crdt.entries.erasure import Shown
from lattica.crdt.entries.header import Entry, Kind, check_entry
from lattica.crdt.entries.remnant import read_remnant
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.core import Log
from lattica.crdt.log.disk.database import DocumentDatabase
from lattica.crdt.log.disk.replica import load_keyring, load_log
from lattica.crdt.log.disk.schema import read_genesis
from lattica.crdt.log.feed import Feed
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.types.state import State
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

MAX_PROBLEMS = 100
"""That are named; more are counted."""


@dataclass(slots=True)
class CheckReport:
    """What was found in a document's file."""

    doc_id: bytes
    name: str
    authors: int = 0
    entries: int = 0
    """Whose headers, links, payloads and signatures were verified."""
    erased: int = 0
    """Of these, without payloads: that is said by who may."""
    missing: int = 0
    """Of these, without payloads that were erased and are not any more: peers may have them."""
    pruned: int = 0
    """Of which only the IDs are there."""
    withdrawn: int = 0
    """Kept without effect: behind forks, or covered by no right."""
    forks: int = 0
    unsigned: int = 0
    """Vouched for by a later entry of their chain, without a signature of their own."""
    root: bytes | None = None
    """Of the state; None if it cannot be computed here."""
    unread: int = 0
    """Entries of a sealed document that the identity has no read key for."""
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    """The first `MAX_PROBLEMS`."""

    def note(self, author: bytes, seq: int, what: str) -> None:
        """Note what is wrong with an entry."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"entry {seq} of {author.hex()}: {what}")


def check_document(path: Path, identity: Identity | None = None) -> CheckReport:
    """Verify a document's file, which nobody may have open; nothing in it is changed. Of a sealed
    document the state is computed if `identity` can read it.

    Every signature is verified, which takes some 0.2 ms an entry.

    Raises:
        StoreInUseError: another node or program has it open.
        StoreCorruptError: it is so damaged that it cannot be read as a document.
        StoreError: it is no document's, or cannot be opened.
    """
    genesis = read_genesis(path)
    database = DocumentDatabase(path, genesis)
    try:
        report = CheckReport(genesis.doc_id, genesis.name)
        log = load_log(genesis, database)
        log.restore_erasures(database.erasures())
        for shown in log.erasures:
            _check_erasure(shown, report)
        for feed in log.feeds.values():
            _check_feed(database, feed, log, report)
        for entry in database.withdrawn_entries():
            report.withdrawn += 1
            _check_own(entry, report)
            _check_payload(entry, log, report)
        open_payload = None
        if genesis.is_sealed:
            keyring = load_keyring(log, database, identity or Identity.generate())
            open_payload = keyring.open
        state = State(genesis, log.has_effect, open_payload, lambda: log.erasures)
        state.rebuild(database.all_entries, database.withdrawn_entries)
        report.unread = state.unread
        try:
            report.root = None if state.unread else SearchTree(dict(state.items())).root
        except LocalProtocolError:
            report.root = None  # there are texts, and nothing to merge them with
        return report
    finally:
        database.close()


def _check_erasure(shown: Shown, report: CheckReport) -> None:
    header = shown.entry.header
    try:
        check_entry(shown.entry)
        if header.doc_id != report.doc_id or not shown.entry.is_signed():
            report.note(header.author, header.seq, "an erasure that its author has not signed")
    except RemoteProtocolError as error:
        report.note(header.author, header.seq, f"{error}")


def _check_payload(entry: Entry, log: Log, report: CheckReport) -> None:
    """Whether it is there, or known to be erased."""
    header = entry.header
    if log.erasures.erases(header):
        if entry.payload is not None:
            report.note(header.author, header.seq, "it is erased, and its payload is here")
        report.erased += entry.payload is None
    elif entry.payload is None:
        report.missing += 1
        if not log.erasures.is_whole(entry):
            report.note(header.author, header.seq, "its payload is missing, and was not erased")


def _check_feed(database: DocumentDatabase, feed: Feed, log: Log, report: CheckReport) -> None:
    report.authors += bool(feed.ids)
    report.forks += feed.fork is not None
    present = 0
    hlc = -1
    is_vouched = True
    for entry in database.entries(feed.author, 0, len(feed.ids)):
        present += 1
        header = entry.header
        seq = header.seq
        prev = feed.ids[seq - 1] if seq else header.doc_id
        if header.author != feed.author or header.doc_id != report.doc_id:
            report.note(feed.author, seq, "it is of another author or document")
        if header.prev_id != prev or feed.ids[seq] != header.id:
            report.note(feed.author, seq, "it does not follow on the one before")
        if header.hlc <= hlc:
            report.note(feed.author, seq, "its time is not after the one before")
        hlc = header.hlc
        if header.kind == Kind.SESSION:
            _check_certificate(entry, feed, report)
        is_vouched = _check_own(entry, report)
        _check_payload(entry, log, report)
    is_vouched |= feed.fork is not None and feed.fork.vouches_for(feed.ids)
    if present and not is_vouched:
        report.note(feed.author, len(feed.ids) - 1, "nobody has signed the newest one")
    for seq, remnant in database.remnants(feed.author).items():
        prev = feed.ids[seq - 1] if seq else report.doc_id
        try:
            left = read_remnant(remnant, report.doc_id, feed.author, seq, prev)
        except RemoteProtocolError as error:
            report.note(feed.author, seq, f"{error}")
            continue
        if left.id != feed.ids[seq]:
            report.note(feed.author, seq, "what is left of it does not follow on the one before")
    report.entries += present
    report.pruned += len(feed.ids) - present


def _check_own(entry: Entry, report: CheckReport) -> bool:
    """Check an entry by itself; whether its author has signed it."""
    header = entry.header
    try:
        check_entry(entry)
    except RemoteProtocolError as error:
        report.note(header.author, header.seq, f"{error}")
    if entry.is_signed():
        return True
    report.unsigned += 1
    return False


def _check_certificate(entry: Entry, feed: Feed, report: CheckReport) -> None:
    header = entry.header
    try:
        certificate = decode_certificate(entry.payload or b"", header.doc_id, header.author)
    except RemoteProtocolError as error:
        report.note(header.author, header.seq, f"{error}")
        return
    if certificate.identity != feed.identity:
        report.note(header.author, header.seq, "it is kept as another identity's")


def problems_of(report: CheckReport) -> Iterator[str]:
    """What is wrong, a line each."""
    yield from report.problems
    if report.problem_count > len(report.problems):
        yield f"and {report.problem_count - len(report.problems)} more"
