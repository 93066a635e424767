"""Chains: contiguous entries of one author, verified by their links and the newest signature alone.

Each entry's hash goes over the ID of the one before, so a signature of the newest vouches for all
of them; hashing costs a hundredth of verifying. Of the signatures inside that of each 256th entry
is verified; the others are passed on as they are, and verified when an entry has to stand for
itself.

On the wire a chain is `[author, seq, prev_id, [item, …]]`: the sequence number of its first entry,
and the ID of the one before, or nil if the receiver is known to have that. An item is `[hlc, kind,
payload, signature]`, followed by the dependencies if there are any; where a payload is left out
there is `[payload_hash, payload_size]` in its place. The rest of each header follows from these.
Where payloads were erased the erasures go with it, as a fifth part of the chain
(:mod:`lattica.crdt.entries.erasure`): whoever lacks the entries may not have these yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lattica.crdt.base.canonical import Plain, decode, encode_known
from lattica.crdt.entries.erasure import MAX_SHOWN, Evidence, Shown, pack_shown, read_shown
from lattica.crdt.entries.header import MAX_SEQ, Entry, Header, Kind, check_entry, check_form
from lattica.nat.base.errors import RemoteProtocolError

MAX_CHAIN: Final = 1024 * 1024
"""Bytes of a chain on the wire."""
SIGNED_EVERY: Final = 256
"""Entries of an author of which one has its own signature verified in any chain: so what proves
that he contradicts himself is not long.
"""
MAX_ENTRIES: Final = 4096
"""Entries of a chain on the wire."""
FRAME_BYTES: Final = 256
"""Of a chain beside its items, and of the message that it goes in, at most."""
_ITEM_BYTES: Final = 128
"""Of an item beside payload and dependencies, at most."""
_DEP_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Chain:
    """What somebody has sent of one author."""

    entries: tuple[Entry, ...]
    shown: tuple[Shown, ...] = ()
    """Erasures because of which some of them have no payload."""


def is_landmark(seq: int) -> bool:
    """Whether the entry at this place is signed by itself in every chain."""
    return seq % SIGNED_EVERY == SIGNED_EVERY - 1


def encode_chain(
    entries: Sequence[Entry], *, with_prev: bool, shown: Sequence[Shown] = ()
) -> bytes:
    """The wire form of contiguous entries of one author, at least one.

    `with_prev` has the ID before the first of them in it. The caller keeps to `MAX_CHAIN` and
    `MAX_ENTRIES`.
    """
    first = entries[0].header
    prev = first.prev_id if with_prev else None
    parts: list[Plain] = [first.author, first.seq, prev, [pack_item(entry) for entry in entries]]
    return encode_known([*parts, pack_shown(shown)] if shown else parts)


def fitting(entries: Iterable[Entry], most: int = MAX_ENTRIES) -> tuple[list[Entry], int]:
    """The first of an author's entries, contiguous ones, that a chain has room for, but no more
    than `most`; and their bytes there, at most.
    """
    found: list[Entry] = []
    size = erasures = 0
    for entry in entries:
        header = entry.header
        erasures += header.kind == Kind.ERASE
        more = _most_bytes(entry)
        if found and (
            header.seq != found[-1].header.seq + 1
            or size + more > MAX_CHAIN - FRAME_BYTES
            or len(found) == most
            or erasures > MAX_SHOWN
        ):
            break
        found.append(entry)
        size += more
    return found, size


def fitting_shown(entries: Sequence[Entry], size: int, evidence: Evidence) -> Sequence[Entry]:
    """The first of these entries, which take `size` bytes of a chain at most, that it has room for
    together with the erasures of what they lack.
    """
    while True:
        shown = evidence(entries)
        more = sum(each.entry.size + len(each.certificate) + _ITEM_BYTES for each in shown)
        fits = len(shown) <= MAX_SHOWN and size + more <= MAX_CHAIN - FRAME_BYTES
        if fits or len(entries) == 1:
            return entries
        entries = entries[: len(entries) // 2]
        size = sum(map(_most_bytes, entries))


def _most_bytes(entry: Entry) -> int:
    """Of an entry in a chain."""
    return len(entry.payload or b"") + _DEP_BYTES * len(entry.header.deps) + _ITEM_BYTES


def signed_part(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Entries up to the last that is signed by itself: of them a chain can be made."""
    end = len(entries)
    while end and not entries[end - 1].is_signed():
        end -= 1
    return entries[:end]


def pack_item(entry: Entry) -> list[Plain]:
    """An entry of a chain, without what the chain says of it."""
    header = entry.header
    payload: Plain = entry.payload
    if payload is None:
        payload = [header.payload_hash, header.payload_size]
    item: list[Plain] = [header.hlc, header.kind, payload, entry.signature]
    if header.deps:
        item.append(list(header.deps))
    return item


def decode_chain(
    data: bytes, doc_id: bytes, id_at: Callable[[bytes, int], bytes | None]
) -> tuple[Entry, ...]:
    """The entries of a chain; see :func:`read_chain`."""
    return read_chain(data, doc_id, id_at).entries


def read_chain(data: bytes, doc_id: bytes, id_at: Callable[[bytes, int], bytes | None]) -> Chain:
    """Read a chain of a document, and verify it.

    `id_at(author, seq)` is the ID of an entry that is here, for chains that leave it to be known.

    Raises:
        RemoteProtocolError: it is none, breaks a rule of the format, follows on an entry that is
            not here without giving its ID, or is not signed by its author.
    """
    sessions: Sequence[Plain] = ()
    match decode(data, MAX_CHAIN):
        case [bytes(author), int(seq), bytes() | None as prev, list(items)]:
            pass
        case [bytes(author), int(seq), bytes() | None as prev, list(items), [_, *_] as sessions]:
            pass
        case _:
            raise RemoteProtocolError("not a chain of entries")
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ or not items:
        raise RemoteProtocolError("a chain without entries, or that begins nowhere")
    if prev is None:
        prev = doc_id if seq == 0 else id_at(author, seq - 1)
        if prev is None:
            raise RemoteProtocolError("a chain that follows on an entry that is not here")
    entries = []
    for item in items:
        entry = unpack_item(item, doc_id, author, seq, prev)
        entries.append(entry)
        seq, prev = seq + 1, entry.id
    _verify_links(entries)
    return Chain(tuple(entries), read_shown(sessions, doc_id))


def unpack_item(item: Plain, doc_id: bytes, author: bytes, seq: int, prev: bytes) -> Entry:
    """An entry of a chain, checked as :func:`~lattica.crdt.entries.header.check_entry` does.

    Raises RemoteProtocolError if it is none.
    """
    # Of a snapshot a hundred thousand of them: no `match`, which takes twice as long.
    if type(item) is not list or not 4 <= len(item) <= 5:
        raise RemoteProtocolError("an entry of a chain that is none")
    hlc, kind, payload, signature = item[:4]
    if type(hlc) is not int or type(kind) is not int or type(signature) is not bytes:
        if bool in (type(hlc), type(kind)):
            raise RemoteProtocolError("an entry of a chain with a truth for a number")
        raise RemoteProtocolError("an entry of a chain that is none")
    deps: Sequence[Plain] = ()
    if len(item) == 5:
        deps = item[4] if type(item[4]) is list else ()
        if not deps or any(type(dep) is not bytes for dep in deps):
            raise RemoteProtocolError("dependencies that are not IDs")
    body: bytes | None = None
    if type(payload) is bytes:
        body = payload
        digest, size = hashlib.sha256(body).digest(), len(body)
    else:
        match payload:
            case [bytes(digest), int(size)] if type(size) is int:
                pass
            case _:
                raise RemoteProtocolError("an entry of a chain without payload or its hash")
    header = Header(
        doc_id,
        author,
        seq,
        prev,
        tuple(deps),  # type: ignore[arg-type]
        hlc,
        kind,
        digest,
        size,
    )
    entry = Entry(header, signature, body)
    check_form(entry)
    return entry


def verify_chain(entries: Sequence[Entry]) -> None:
    """Verify contiguous entries of one author: every rule of the format, the links, that time
    increases, and the newest signature.

    Raises:
        RemoteProtocolError: something is wrong; the message says what.
    """
    for entry in entries:
        check_entry(entry)
    _verify_links(entries)


def _verify_links(entries: Sequence[Entry]) -> None:
    if sum(entry.header.kind == Kind.ERASE for entry in entries) > MAX_SHOWN:
        raise RemoteProtocolError(f"a chain with more than {MAX_SHOWN} erasures")
    before: Header | None = None
    for entry in entries:
        header = entry.header
        if before is not None:
            if header.prev_id != before.id or header.seq != before.seq + 1:
                raise RemoteProtocolError("a chain with a link that does not fit")
            if header.author != before.author or header.doc_id != before.doc_id:
                raise RemoteProtocolError("a chain of two authors or documents")
            if header.hlc <= before.hlc:
                raise RemoteProtocolError("a chain in which time does not go on")
        before = header
    if not entries or not entries[-1].is_signed():
        raise RemoteProtocolError("a chain that its author has not signed")
    for entry in entries[:-1]:
        if is_landmark(entry.header.seq) and not entry.is_signed():
            raise RemoteProtocolError(
                f"a chain with {SIGNED_EVERY} entries of which none is signed"
            )
        if entry.header.kind == Kind.ERASE and not entry.is_signed():
            # It is shown without those that follow on it.
            raise RemoteProtocolError("an erasure that its author has not signed")
