"""Erasures: entries by which the payloads of earlier ones go, everywhere and for good.

The payload is `[[[author, seq, id], …], [id, …]]`: the entries whose payloads go, in order, and
what these had replaced, in order. What was replaced stays so: an erasure counts as a write at the
places of those, too, and needs the right to write there. Of an entry that is erased the header
stays, so its chain is verified as before, and it takes no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.header import (
    ID_BYTES,
    MAX_SEQ,
    Entry,
    Header,
    Kind,
    pack_entry,
    unpack_entry,
)
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.keys.strict_ed25519 import KEY_BYTES
from lattica.nat.base.errors import RemoteProtocolError

ERASABLE: Final = frozenset({Kind.REGISTER, Kind.COUNTER, Kind.SET, Kind.CLAIM})
"""Texts and lists are made of all their edits; other kinds say who may do what."""
MAX_TARGETS: Final = 512
MAX_REPLACED: Final = 1024
MAX_SHOWN: Final = 128
"""Erasures that are in one chain, and as many that go with it: each costs a signature to verify."""
_MAX_BYTES: Final = 64 * 1024

Target: TypeAlias = tuple[bytes, int, bytes]
"""Author, sequence number and ID of an entry."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is erased."""

    targets: tuple[Target, ...]
    replaced: tuple[bytes, ...] = ()
    """IDs of writes that the targets had replaced."""

    def encode(self) -> bytes:
        """The payload."""
        return encode([[list(each) for each in self.targets], self.replaced])


def decode_erasure(data: bytes) -> Erasure:
    """Read the payload of an erasure. Raises RemoteProtocolError."""
    match decode(data, _MAX_BYTES):
        case [list(items), list(replaced)] if (
            1 <= len(items) <= MAX_TARGETS and len(replaced) <= MAX_REPLACED
        ):
            pass
        case _:
            raise RemoteProtocolError("an erasure of nothing, or of too much at once")
    targets = tuple(map(_read_target, items))
    if any(type(each) is not bytes or len(each) != ID_BYTES for each in replaced):
        raise RemoteProtocolError("what an erased entry replaced is no ID")
    if list(targets) != sorted(set(targets)) or replaced != sorted(set(replaced)):
        raise RemoteProtocolError("an erasure out of order")
    return Erasure(targets, tuple(replaced))


def _read_target(item: Plain) -> Target:
    match item:
        case [bytes(author), int(seq), bytes(entry_id)] if (
            len(author) == KEY_BYTES
            and type(seq) is int
            and 0 <= seq <= MAX_SEQ
            and len(entry_id) == ID_BYTES
        ):
            return author, seq, entry_id
    raise RemoteProtocolError("an erasure of something that is no entry")


def target_of(header: Header) -> Target:
    """How erasures name an entry."""
    return header.author, header.seq, header.id


@dataclass(frozen=True, slots=True)
class Shown:
    """An erasure, wherever it stands in its chain, and whose it is."""

    entry: Entry
    identity: bytes
    erasure: Erasure
    certificate: bytes = b""
    """That of its session; empty where the first entry of the session is here."""


def erasure_of(entry: Entry, identity: bytes, certificate: bytes = b"") -> Shown | None:
    """What an entry of an identity erases; None if it is no erasure."""
    if entry.header.kind != Kind.ERASE or entry.payload is None:
        return None
    try:
        return Shown(entry, identity, decode_erasure(entry.payload), certificate)
    except RemoteProtocolError:
        return None


def pack_shown(shown: Iterable[Shown]) -> list[Plain]:
    """Erasures as they go with what was erased: `[[certificate, [[header, signature, payload],
    …]], …]`, each session's together.
    """
    sessions: dict[bytes, list[Plain]] = {}
    for each in shown:
        sessions.setdefault(each.certificate, []).append(pack_entry(each.entry))
    return [[certificate, items] for certificate, items in sessions.items()]


def read_shown(sessions: Sequence[Plain], doc_id: bytes) -> tuple[Shown, ...]:
    """Read erasures that go with what was erased, and verify them.

    Raises:
        RemoteProtocolError: something is none, or is not signed by its author.
    """
    found: list[Shown] = []
    for session in sessions:
        match session:
            case [bytes(certificate), [_, *_] as items] if len(items) + len(found) <= MAX_SHOWN:
                found += _of_session(certificate, items, doc_id)
            case _:
                raise RemoteProtocolError("erasures that are none, or too many at once")
    return tuple(found)


def _of_session(certificate: bytes, items: Sequence[Plain], doc_id: bytes) -> list[Shown]:
    entries = [unpack_entry(item, doc_id) for item in items]
    author = entries[0].header.author
    identity = decode_certificate(certificate, doc_id, author).identity
    found: list[Shown] = []
    for entry in entries:
        if entry.header.kind != Kind.ERASE:
            raise RemoteProtocolError("what is shown as an erasure is none")
        if entry.header.author != author or not entry.is_signed():
            raise RemoteProtocolError("an erasure that its author has not signed")
        found.append(Shown(entry, identity, decode_erasure(entry.payload or b""), certificate))
    return found


Evidence: TypeAlias = Callable[[Iterable[Entry]], Sequence[Shown]]
"""The erasures because of which entries have no payload."""
