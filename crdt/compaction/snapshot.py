"""A snapshot: what a document comes to, without the history that it does not need.

It has of each author the whole chain: the entries that still matter, and of those that do not what
their headers say (:mod:`lattica.crdt.entries.remnant`). So whoever begins with it verifies all
links and the newest signature, and admits, refuses and resolves what comes next as everybody else
does. Who signs it says that this is the state, and that nothing else of what is there matters; who
cannot read all of a sealed document says nothing of the state.

It travels as parts of at most 1 MiB, canonical:

=====  ====================================================================
0      `[0, [signed statement, …]]`, the first
1      `[1, author, seq, [item, …]]`: contiguous; an item is an entry as in
       a chain, or bytes: remnants of as many entries as they are
3      `[3, proof of a fork]`
4      `[4, [[header, signature, payload], …]]`: withdrawn, and referred to
5      `[5, [[certificate, [[header, signature, payload], …]], …]]`: erasures
       that are not in the chains
=====  ====================================================================

A statement of a snapshot is signed together with the SHA-256 of all parts but the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from lattica.crdt.base.canonical import Plain, decode, encode, encode_known
from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.entries.chain import pack_item, unpack_item
from lattica.crdt.entries.erasure import Shown, pack_shown, read_shown
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.header import Entry, Header, Kind, pack_entry, unpack_entry
from lattica.crdt.entries.remnant import read_remnant, split_remnants
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.keys.strict_ed25519 import SIGNATURE_BYTES
from lattica.crdt.log.prefix import FeedPrefix, name_authors
from lattica.crdt.log.withdrawn import vouched
from lattica.crdt.proofs.statement import (
    SignedStatement,
    Statement,
    heads_fingerprint,
    is_of_another,
    read_statement,
)
from lattica.nat.base.errors import RemoteProtocolError

MAX_PART: Final = 1024 * 1024
"""Bytes."""
MAX_SNAPSHOT: Final = 2**31
"""Bytes of all parts."""
MAX_STATEMENTS: Final = 64
"""Who sign a snapshot."""
_ITEMS_A_PART: Final = 2048
_REMNANTS_AN_ITEM: Final = 512
_ITEMS_A_TURN: Final = 128
_PART_BYTES: Final = 768 * 1024


@dataclass(slots=True)
class Snapshot:
    """What a snapshot has in it, verified but for the state's root."""

    statement: Statement
    signers: frozenset[bytes]
    """Identities who say so."""
    feeds: dict[bytes, FeedPrefix]
    withdrawn: list[Entry]
    """Those that their authors have signed."""
    shown: list[Shown] = field(default_factory=list)
    """Erasures beside those in the chains."""


def body_parts(
    feeds: Iterable[FeedPrefix], withdrawn: Iterable[Entry], shown: Iterable[Shown] = ()
) -> Iterator[bytes]:
    """All parts but the first. The same document, pruned alike, has the same."""
    for feed in sorted(feeds, key=lambda feed: feed.author):
        yield from _chain_parts(feed)
        if feed.fork is not None:
            yield encode([3, feed.fork.encode()])
    for entry in sorted(withdrawn, key=lambda entry: entry.id):
        yield encode([4, [pack_entry(entry)]])
    for each in sorted(shown, key=lambda each: each.entry.id):
        yield encode([5, pack_shown([each])])


def _chain_parts(feed: FeedPrefix) -> Iterator[bytes]:
    items: list[Plain] = []
    start = seq = size = 0
    for item, count, more in _items(feed):
        if items and (size + more > _PART_BYTES or len(items) == _ITEMS_A_PART):
            yield encode_known([1, feed.author, start, items])
            items, size, start = [], 0, seq
        items.append(item)
        size += more
        seq += count
    if items:
        yield encode_known([1, feed.author, start, items])


def _items(feed: FeedPrefix) -> Iterator[tuple[Plain, int, int]]:
    """A chain as items, with how many entries each is, and about how many bytes."""
    run: list[bytes] = []
    entries = iter(feed.entries)
    entry = next(entries, None)
    for seq in range(len(feed.ids)):
        is_here = entry is not None and entry.header.seq == seq
        if run and (is_here or len(run) == _REMNANTS_AN_ITEM):
            packed = b"".join(run)
            yield packed, len(run), len(packed)
            run = []
        if entry is not None and is_here:
            deps = 40 * (len(entry.header.deps) + 1)
            yield pack_item(entry), 1, len(entry.payload or b"") + SIGNATURE_BYTES + deps
            entry = next(entries, None)
        else:
            run.append(feed.remnants[seq])
    if run:
        packed = b"".join(run)
        yield packed, len(run), len(packed)


def body_digest(parts: Iterable[bytes]) -> bytes:
    """What is signed of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def first_part(signed: Sequence[SignedStatement]) -> bytes:
    """The part with the statements, at most `MAX_STATEMENTS`."""
    return encode([0, [each.plain for each in signed]])


Believed: TypeAlias = Collection[bytes] | Callable[[Mapping[bytes, FeedPrefix]], Collection[bytes]]
"""Identities, or who they are by what is in a snapshot."""


def read_snapshot(
    parts: Iterable[bytes], doc_id: bytes, signers: Believed, needed: int = 1
) -> Snapshot:
    """Read a snapshot of a document that `needed` of the identities `signers` have signed.

    Raises:
        RemoteProtocolError: it is none, or is not signed by so many of them.
    """
    return finish(reading_snapshot(parts, doc_id, signers, needed))


def reading_snapshot(
    parts: Iterable[bytes], doc_id: bytes, signers: Believed, needed: int = 1
) -> Turns[Snapshot]:
    """As :func:`read_snapshot`, in turns."""
    reader = SnapshotReader(doc_id)
    for part in parts:
        yield from reader.taking(part)
    return (yield from reader.finishing(signers, needed))


class SnapshotReader:
    """Reads the parts of a snapshot of one document, in order, as they come."""

    def __init__(self, doc_id: bytes, max_bytes: int = MAX_SNAPSHOT) -> None:
        self._doc_id = doc_id
        self._max_bytes = max_bytes
        self._body = _Body(doc_id)
        self._signed: list[Plain] = []
        self._digest = hashlib.sha256()
        self._total = 0

    def taking(self, part: bytes) -> Turns[None]:
        """Take the next part. Raises RemoteProtocolError if it is none, or one too many."""
        self._total += len(part)
        if len(part) > MAX_PART or self._total > self._max_bytes:
            raise RemoteProtocolError("a snapshot that is too long")
        if not self._signed:
            self._signed = _statements(part, self._doc_id)
            return
        self._digest.update(len(part).to_bytes(4, "big") + part)
        with _as_changed():
            yield from self._body.take(part)

    def finishing(self, signers: Believed, needed: int = 1) -> Turns[Snapshot]:
        """All parts are here.

        Raises:
            RemoteProtocolError: it is none, or is not signed by `needed` of `signers`.
        """
        if not self._signed:
            raise RemoteProtocolError("an empty snapshot: it has no parts")
        digest = self._digest.digest()
        with _as_changed():
            signed = [
                read_statement(each, self._doc_id, of=digest, needs_root=False)
                for each in self._signed
            ]
            feeds = yield from self._body.finish()
        names = frozenset(each.certificate.identity for each in signed)
        signers = signers(feeds) if callable(signers) else signers
        if len(names.intersection(signers)) < needed:
            raise RemoteProtocolError(
                f"a snapshot that {len(names.intersection(signers))} of those who are believed "
                f"have signed, where {needed} are needed"
            )
        statement = signed[0].statement
        if len({each.statement.state for each in signed}) != 1:
            raise RemoteProtocolError("a snapshot whose signers say different things")
        heads = [(feed.author, len(feed.ids), feed.ids[-1]) for feed in feeds.values() if feed.ids]
        if heads_fingerprint(heads) != statement.heads:
            raise RemoteProtocolError("a snapshot of other entries than its statement's")
        forks = [feed.fork for feed in feeds.values() if feed.fork is not None]
        withdrawn = yield from vouched(self._body.withdrawn, forks)
        name_authors(feeds, withdrawn)
        for feed in feeds.values():
            feed.end_vouched()
        return Snapshot(statement, names, feeds, withdrawn, self._body.shown)


@contextmanager
def _as_changed() -> Iterator[None]:
    """What is wrong here is not as it was signed."""
    try:
        yield
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"an incomplete or changed snapshot: {error}") from None


def _statements(part: bytes, doc_id: bytes) -> list[Plain]:
    match decode(part, MAX_PART):
        case [0, [_, *_] as signed] if len(signed) <= MAX_STATEMENTS:
            pass
        case _:
            raise RemoteProtocolError(
                "an incomplete snapshot: it does not begin with the part that has its signatures"
            )
    for each in signed:
        match each:
            case [bytes(encoded), *_] if is_of_another(encoded, doc_id):
                raise RemoteProtocolError("a snapshot of another document")
    return list(signed)


class _Body:
    """What is in the parts but the first."""

    def __init__(self, doc_id: bytes) -> None:
        self._doc_id = doc_id
        self.withdrawn: list[Entry] = []
        self.shown: list[Shown] = []
        self._feeds: dict[bytes, FeedPrefix] = {}
        self._hlc = -1
        """Of the entry before, in the chain that is read."""

    def take(self, part: bytes) -> Turns[None]:
        match decode(part, MAX_PART):
            case [1, bytes(author), int(seq), list(items)]:
                yield from self._items(author, seq, items)
            case [3, bytes(proof)]:
                fork = decode_fork(proof, self._doc_id)
                self._feeds.setdefault(fork.author, FeedPrefix(fork.author)).fork = fork
            case [4, list(items)]:
                for place, item in enumerate(items):
                    if place % _ITEMS_A_TURN == 0:
                        yield
                    self.withdrawn.append(unpack_entry(item, self._doc_id))
            case [5, [_, *_] as sessions]:
                self.shown += read_shown(sessions, self._doc_id)
            case _:
                raise RemoteProtocolError("a part of a snapshot that is none")

    def _items(self, author: bytes, seq: int, items: Sequence[Plain]) -> Turns[None]:
        last = next(reversed(self._feeds), b"")
        feed = self._feeds.setdefault(author, FeedPrefix(author))
        if type(seq) is not int or seq != len(feed.ids) or author < last:
            raise RemoteProtocolError("a part of a snapshot that is out of order")
        if not seq:
            self._hlc = -1
        for place, item in enumerate(items):
            if isinstance(item, bytes) or place % _ITEMS_A_TURN == 0:
                yield
            if isinstance(item, bytes):
                for remnant in split_remnants(item):
                    prev = feed.ids[-1] if feed.ids else self._doc_id
                    number = len(feed.ids)
                    left = read_remnant(remnant, self._doc_id, author, number, prev)
                    self._follow(feed, left.header)
                    feed.remnants[number] = remnant
                continue
            prev = feed.ids[-1] if feed.ids else self._doc_id
            entry = unpack_item(item, self._doc_id, author, len(feed.ids), prev)
            if entry.header.kind == Kind.ERASE and not entry.is_signed():
                raise RemoteProtocolError("an erasure that its author has not signed")
            self._follow(feed, entry.header)
            feed.entries.append(entry)

    def _follow(self, feed: FeedPrefix, header: Header) -> None:
        if header.hlc <= self._hlc:
            raise RemoteProtocolError("a chain of a snapshot in which time does not go on")
        self._hlc = header.hlc
        feed.ids.append(header.id)
        feed.size += header.size

    def finish(self) -> Turns[dict[bytes, FeedPrefix]]:
        for feed in self._feeds.values():
            if not feed.ids:
                continue
            if not feed.entries or feed.entries[0].header.seq:
                raise RemoteProtocolError("a snapshot without an author's first entry")
            first, newest = feed.entries[0], feed.entries[-1]
            if feed.fork is None and newest.header.seq + 1 != len(feed.ids):
                raise RemoteProtocolError("a snapshot without an author's newest entry")
            if feed.fork is not None and len(feed.ids) > feed.fork.seq:
                raise RemoteProtocolError("a snapshot with entries behind a fork")
            is_vouched = feed.fork is not None and feed.fork.vouches_for(feed.ids)
            if first.header.kind != Kind.SESSION or not (is_vouched or newest.is_signed()):
                raise RemoteProtocolError("a snapshot with an entry that nobody has signed")
            certificate = decode_certificate(first.payload or b"", self._doc_id, feed.author)
            feed.identity = certificate.identity
            yield
        return self._feeds
