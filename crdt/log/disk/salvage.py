"""What is good in a damaged file of a document: verified as if a peer had sent it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lattica.crdt.base.turns import finish
from lattica.crdt.entries.erasure import Shown, erasure_of
from lattica.crdt.entries.fork import ForkProof, decode_fork
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import ID_BYTES, Entry, check_entry, decode_header
from lattica.crdt.entries.remnant import read_remnant, split_remnants
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.disk.arrival import STAND_IN_BYTES
from lattica.crdt.log.erasure.erasures import erasures_in
from lattica.crdt.log.prefix import FeedPrefix, name_authors
from lattica.crdt.log.withdrawn import vouched
from lattica.nat.base.errors import RemoteProtocolError

_MAX_MISSING: Final = 1024 * 1024
"""Bytes that may be missing of any file, beside half of it."""
_MAX_GUESSED: Final = 1024
"""Numbers that are tried where the list of authors cannot be read."""


@dataclass(slots=True)
class Salvaged:
    """What can be taken of a file."""

    prefixes: list[FeedPrefix] = field(default_factory=list)
    """Of each author the chain up to where it is damaged."""
    withdrawn: list[Entry] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    """Erasures, wherever they stand."""

    @property
    def count(self) -> int:
        """How many entries."""
        return sum(len(each.ids) for each in self.prefixes)


def salvage(path: Path, genesis: Genesis) -> Salvaged:
    """Read a damaged file, which nobody else has open. What cannot be read is left out."""
    found = Salvaged()
    with (
        suppress(sqlite3.Error, OSError),
        _as_long_as_it_says(path) as whole,
        closing(sqlite3.connect(whole, timeout=0)) as db,
    ):
        for number, fork in _authors(db, genesis):
            entries = list(_entries(db, number, genesis, "is_admitted"))
            # Where the list is damaged, the chain says whose it is.
            author = entries[0].header.author if entries else b""
            if fork is not None and author in (b"", fork.author):
                author = fork.author
            elif fork is not None:
                fork = None
            prefix = _prefix(author, entries, fork, dict(_gone(db, number)), genesis)
            if prefix.ids or prefix.fork is not None:
                found.prefixes.append(prefix)
            withdrawn = _entries(db, number, genesis, "NOT is_admitted")
            forks = () if fork is None else (fork,)
            found.withdrawn += finish(vouched(withdrawn, forks))
        _take_erasures(db, found, genesis)
    _leave_out_bare(found, genesis)
    return found


def _take_erasures(db: sqlite3.Connection, found: Salvaged, genesis: Genesis) -> None:
    identities = {each.author: each.identity for each in found.prefixes}
    query = "SELECT header, signature, payload, certificate FROM erasure WHERE ? IS NOT NULL"
    for header, signature, payload, certificate in _rows(db, query, 0):
        with suppress(RemoteProtocolError, TypeError):
            entry = Entry(decode_header(header), signature, payload)
            check_entry(entry)
            author = entry.header.author
            identity = identities.get(author, b"")
            if certificate:
                identity = decode_certificate(certificate, genesis.doc_id, author).identity
            shown = erasure_of(entry, identity, certificate)
            if shown is not None and entry.header.doc_id == genesis.doc_id and entry.is_signed():
                found.shown.append(shown)


def _leave_out_bare(found: Salvaged, genesis: Genesis) -> None:
    """Leave out what lacks a payload that nobody has erased, and what follows on it."""
    prefixes = {each.author: each for each in found.prefixes}
    name_authors(prefixes, found.withdrawn)
    is_whole = erasures_in(genesis, prefixes, found.shown).is_whole
    for prefix in found.prefixes:
        for seq in [each.header.seq for each in prefix.entries if not is_whole(each)][:1]:
            prefix.end_before(seq)
    found.withdrawn = [*filter(is_whole, found.withdrawn)]


@contextmanager
def _as_long_as_it_says(path: Path) -> Iterator[Path]:
    """The file, or a copy without the end that is missing: SQLite reads none that is cut off."""
    with path.open("rb") as file:
        head = file.read(32)
    # Bytes of a page, and how many of them there are.
    pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    size, is_here = pages[0] * pages[1], path.stat().st_size
    if not is_here < size <= 2 * is_here + _MAX_MISSING:
        yield path
        return
    copy = path.with_name(path.name + ".whole")
    try:
        shutil.copyfile(path, copy)
        os.truncate(copy, size)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _authors(db: sqlite3.Connection, genesis: Genesis) -> list[tuple[int, ForkProof | None]]:
    found: list[tuple[int, ForkProof | None]] = []
    try:
        for number, data in db.execute(
            f"SELECT number, fork FROM author WHERE length(key) IS NOT {STAND_IN_BYTES}"
        ):
            fork = None
            with suppress(RemoteProtocolError):
                if isinstance(data, bytes):
                    fork = decode_fork(data, genesis.doc_id)
            found.append((number, fork))
    except sqlite3.Error:
        known = {number for number, _ in found}
        found += [(number, None) for number in range(1, _MAX_GUESSED) if number not in known]
    return found


def _rows(db: sqlite3.Connection, query: str, number: int) -> Iterator[tuple[Any, ...]]:
    """What comes before the first row that cannot be read."""
    with suppress(sqlite3.Error):
        yield from db.execute(query, (number,))


def _entries(db: sqlite3.Connection, number: int, genesis: Genesis, where: str) -> Iterator[Entry]:
    """An author's entries, by sequence number."""
    query = "SELECT header, signature, payload FROM entry WHERE author = ? AND "
    for header, signature, payload in _rows(db, f"{query}{where} ORDER BY seq", number):
        if (
            isinstance(header, bytes)
            and isinstance(signature, bytes)
            and (payload is None or isinstance(payload, bytes))
        ):
            with suppress(RemoteProtocolError):
                entry = Entry(decode_header(header), signature, payload)
                check_entry(entry)
                if entry.header.doc_id == genesis.doc_id:
                    yield entry


def _gone(db: sqlite3.Connection, number: int) -> Iterator[tuple[int, bytes]]:
    """The remnants of an author's entries, by sequence number."""
    for seq, ids, packed in _rows(
        db, "SELECT seq, ids, remnants FROM pruned WHERE author = ? ORDER BY seq", number
    ):
        if isinstance(ids, bytes) and isinstance(packed, bytes):
            with suppress(RemoteProtocolError):
                remnants = list(split_remnants(packed))
                if len(remnants) * ID_BYTES == len(ids):
                    yield from enumerate(remnants, seq)


def _prefix(
    author: bytes,
    entries: list[Entry],
    fork: ForkProof | None,
    gone: dict[int, bytes],
    genesis: Genesis,
) -> FeedPrefix:
    """The beginning of a chain of which every link fits, up to an entry that is vouched for."""
    prefix = FeedPrefix(author, fork=fork)
    here = {each.header.seq: each for each in entries if each.header.author == author}
    if 0 not in here:
        return prefix
    hlc = -1
    for seq in range(fork.seq if fork is not None else len(here) + len(gone)):
        prev = prefix.ids[-1] if prefix.ids else genesis.doc_id
        entry = here.get(seq)
        try:
            header = (
                entry
                if entry is not None
                else read_remnant(gone[seq], genesis.doc_id, author, seq, prev)
            ).header
        except (KeyError, RemoteProtocolError):
            break
        if header.prev_id != prev or header.hlc <= hlc:
            break
        hlc = header.hlc
        prefix.ids.append(header.id)
        prefix.size += header.size
        if entry is not None:
            prefix.entries.append(entry)
        else:
            prefix.remnants[seq] = gone[seq]
    prefix.end_vouched()
    if prefix.entries:
        try:
            certificate = decode_certificate(
                prefix.entries[0].payload or b"", genesis.doc_id, author
            )
        except RemoteProtocolError:
            return FeedPrefix(author, fork=fork)
        prefix.identity = certificate.identity
    return prefix
