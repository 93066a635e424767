"""A snapshot: what a document comes to, without the history that it does not need.

It has of each author the IDs of all his entries, and the entries that still matter, so that who
begins with it admits, refuses and resolves what comes next as everybody else does. Who signs it
says that this is the state, that these are the IDs, and that he has replayed what is not in it.

It travels as parts of at most 1 MiB, canonical:

=====  ====================================================================
0      `[0, [signed statement, …]]`, the first
1      `[1, author, seq, IDs, bytes]`: contiguous, of so many bytes in all
2      `[2, author, [[seq, hlc, kind, payload, signature, deps], …]]`
3      `[3, proof of a fork]`
4      `[4, [[header, signature, payload or nil], …]]`: withdrawn, and referred to
=====  ====================================================================

A statement of a snapshot is signed together with the SHA-256 of all parts but the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.canonical import Plain, decode, encode
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.header import (
    ID_BYTES,
    MAX_DEPS,
    MAX_SEQ,
    Entry,
    Header,
    Kind,
    check_entry,
    decode_header,
)
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES, SIGNATURE_BYTES
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.proofs.statement import (
    SignedStatement,
    Statement,
    heads_fingerprint,
    read_statement,
)
from lattica.nat.base.errors import RemoteProtocolError

MAX_PART: Final = 1024 * 1024
"""Bytes."""
MAX_SNAPSHOT: Final = 2**31
"""Bytes of all parts."""
_MAX_STATEMENTS: Final = 64
_IDS_A_PART: Final = 16_384
_ENTRIES_A_PART: Final = 2048
_PART_BYTES: Final = 768 * 1024


@dataclass(slots=True)
class Snapshot:
    """What a snapshot has in it, verified but for the state's root."""

    statement: Statement
    signers: frozenset[bytes]
    """Identities who say so."""
    feeds: dict[bytes, FeedPrefix]
    withdrawn: list[Entry]


def body_parts(feeds: Iterable[FeedPrefix], withdrawn: Iterable[Entry]) -> Iterator[bytes]:
    """All parts but the first. The same document, pruned alike, has the same."""
    for feed in sorted(feeds, key=lambda feed: feed.author):
        for start in range(0, len(feed.ids), _IDS_A_PART):
            ids = feed.ids[start : start + _IDS_A_PART]
            yield encode([1, feed.author, start, b"".join(ids), feed.size])
        yield from _entry_parts(feed)
        if feed.fork is not None:
            yield encode([3, feed.fork.encode()])
    for entry in sorted(withdrawn, key=lambda entry: entry.id):
        yield encode([4, [[entry.header.encoded, entry.signature, entry.payload]]])


def _entry_parts(feed: FeedPrefix) -> Iterator[bytes]:
    items: list[Plain] = []
    size = 0
    for entry in feed.entries:
        header = entry.header
        more = header.payload_size + SIGNATURE_BYTES + 40 * (len(header.deps) + 1)
        if items and (size + more > _PART_BYTES or len(items) == _ENTRIES_A_PART):
            yield encode([2, feed.author, items])
            items, size = [], 0
        items.append(
            [header.seq, header.hlc, header.kind, entry.payload, entry.signature, header.deps]
        )
        size += more
    if items:
        yield encode([2, feed.author, items])


def body_digest(parts: Iterable[bytes]) -> bytes:
    """What is signed of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def first_part(signed: Sequence[SignedStatement]) -> bytes:
    """The part with the statements."""
    return encode([0, [each.plain for each in signed]])


def read_snapshot(
    parts: Iterable[bytes], doc_id: bytes, signers: Collection[bytes], needed: int = 1
) -> Snapshot:
    """Read a snapshot of a document that `needed` of the identities `signers` have signed.

    Raises:
        RemoteProtocolError: it is none, or is not signed by so many of them.
    """
    stream = iter(parts)
    signed_plain = _statements(next(stream, b""))
    digest = hashlib.sha256()
    reader = _Reader(doc_id)
    total = 0
    for part in stream:
        total += len(part)
        if len(part) > MAX_PART or total > MAX_SNAPSHOT:
            raise RemoteProtocolError("a snapshot that is too long")
        digest.update(len(part).to_bytes(4, "big") + part)
        reader.take(part)
    signed = [read_statement(each, doc_id, of=digest.digest()) for each in signed_plain]
    names = frozenset(each.certificate.identity for each in signed)
    if len(names.intersection(signers)) < needed:
        raise RemoteProtocolError(
            f"a snapshot that {len(names.intersection(signers))} of those who are believed have "
            f"signed, where {needed} are needed"
        )
    statement = signed[0].statement
    same = {(s.statement.heads, s.statement.root, s.statement.entries) for s in signed}
    if len(same) != 1:
        raise RemoteProtocolError("a snapshot whose signers say different things")
    feeds = reader.finish()
    heads = [(feed.author, len(feed.ids), feed.ids[-1]) for feed in feeds.values() if feed.ids]
    if heads_fingerprint(heads) != statement.heads:
        raise RemoteProtocolError("a snapshot of other entries than its statement's")
    return Snapshot(statement, names, feeds, reader.withdrawn)


def _statements(part: bytes) -> list[Plain]:
    match decode(part, MAX_PART):
        case [0, [_, *_] as signed] if len(signed) <= _MAX_STATEMENTS:
            return list(signed)
        case _:
            raise RemoteProtocolError("a snapshot that begins without its signatures")


class _Reader:
    """Reads the parts in order."""

    def __init__(self, doc_id: bytes) -> None:
        self._doc_id = doc_id
        self.withdrawn: list[Entry] = []
        self._feeds: dict[bytes, FeedPrefix] = {}

    def take(self, part: bytes) -> None:
        match decode(part, MAX_PART):
            case [1, bytes(author), int(seq), bytes(ids), int(size)]:
                self._ids(author, seq, ids, size)
            case [2, bytes(author), list(items)]:
                self._entries(self._feed(author), items)
            case [3, bytes(proof)]:
                fork = decode_fork(proof, self._doc_id)
                self._feeds.setdefault(fork.author, FeedPrefix(fork.author)).fork = fork
            case [4, list(items)]:
                for item in items:
                    self.withdrawn.append(self._loose(item))
            case _:
                raise RemoteProtocolError("a part of a snapshot that is none")

    def _ids(self, author: bytes, seq: int, ids: bytes, size: int) -> None:
        feed = self._feeds.setdefault(author, FeedPrefix(author))
        if len(author) != KEY_BYTES or len(ids) % ID_BYTES or seq != len(feed.ids):
            raise RemoteProtocolError("IDs of a snapshot that are none, or out of order")
        feed.ids += [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES)]
        feed.size = size

    def _feed(self, author: bytes) -> FeedPrefix:
        feed = self._feeds.get(author)
        if feed is None:
            raise RemoteProtocolError("entries of a snapshot without the author's IDs")
        return feed

    def _entries(self, feed: FeedPrefix, items: Sequence[Plain]) -> None:
        last = feed.entries[-1].header.seq if feed.entries else -1
        for item in items:
            match item:
                case [int(seq), int(hlc), int(kind), bytes(payload), bytes(sig), list(deps)]:
                    pass
                case _:
                    raise RemoteProtocolError("an entry of a snapshot that is none")
            if not last < seq < len(feed.ids) or len(sig) != SIGNATURE_BYTES:
                raise RemoteProtocolError("an entry of a snapshot that is out of order")
            if len(deps) > MAX_DEPS or seq > MAX_SEQ:
                raise RemoteProtocolError("an entry of a snapshot with too many dependencies")
            prev = feed.ids[seq - 1] if seq else self._doc_id
            header = Header(
                self._doc_id,
                feed.author,
                seq,
                prev,
                tuple(deps),
                hlc,
                kind,
                hashlib.sha256(payload).digest(),
                len(payload),
            )
            if header.id != feed.ids[seq]:
                raise RemoteProtocolError("an entry of a snapshot that is not what its ID says")
            feed.entries.append(Entry(header, sig, payload))
            last = seq

    def _loose(self, item: Plain) -> Entry:
        match item:
            case [bytes(header), bytes(signature), bytes() | None as payload]:
                entry = Entry(decode_header(header), signature, payload)
            case _:
                raise RemoteProtocolError("a withdrawn entry of a snapshot that is none")
        check_entry(entry)
        if entry.header.doc_id != self._doc_id:
            raise RemoteProtocolError("a withdrawn entry of another document")
        return entry

    def finish(self) -> dict[bytes, FeedPrefix]:
        for feed in self._feeds.values():
            if not feed.ids:
                continue
            if not feed.entries or feed.entries[0].header.seq:
                raise RemoteProtocolError("a snapshot without an author's first entry")
            first, newest = feed.entries[0], feed.entries[-1]
            if feed.fork is None and newest.header.seq + 1 != len(feed.ids):
                raise RemoteProtocolError("a snapshot without an author's newest entry")
            if first.header.kind != Kind.SESSION or not newest.is_signed():
                raise RemoteProtocolError("a snapshot with an entry that nobody has signed")
            certificate = decode_certificate(first.payload or b"", self._doc_id, feed.author)
            feed.identity = certificate.identity
        return self._feeds
