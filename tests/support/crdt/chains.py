"""Entries as an honest author would write them, and authors that are the same in each run."""

from __future__ import annotations

import hashlib

from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.entries.erasure import Erasure, Target
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.nat.base.keys.identity import Identity

DOC = Genesis("test")
START = 1_800_000_000_000
"""Milliseconds since 1970 at which all of them begin."""


class Writer:
    """An author who is named by `name`."""

    def __init__(self, name: bytes, genesis: Genesis = DOC) -> None:
        self.genesis = genesis
        self.identity = Identity(hashlib.sha256(b"identity" + name).digest())
        self.session = SessionKey(hashlib.sha256(b"session" + name).digest())

    @property
    def author(self) -> bytes:
        return self.session.author

    def chain(self, count: int, value: Plain = "value") -> tuple[Entry, ...]:
        """His first entries: the certificate, then registers, a millisecond apart."""
        entries: list[Entry] = []
        for seq in range(count):
            entries.append(self.next(entries[-1] if entries else None, (START + seq) << 16, value))
        return tuple(entries)

    def next(self, before: Entry | None, hlc: int, value: Plain = "value") -> Entry:
        """The entry after another one; after none the certificate."""
        doc_id = self.genesis.doc_id
        if before is None:
            certificate = self.session.certificate(self.identity, doc_id).encode()
            return sign_entry(self.session, doc_id, 0, doc_id, hlc, Kind.SESSION, certificate)
        payload = encode(["key", value, []])
        seq = before.header.seq + 1
        return sign_entry(self.session, doc_id, seq, before.id, hlc, Kind.REGISTER, payload)


class Eraser(Writer):
    """An author who signs erasures as he likes."""

    def erasing(self, before: Entry, *targets: Target, replaced: tuple[bytes, ...] = ()) -> Entry:
        return self.saying(before, Erasure(tuple(sorted(targets)), replaced).encode())

    def saying(self, before: Entry, payload: bytes) -> Entry:
        header = before.header
        return sign_entry(
            self.session,
            self.genesis.doc_id,
            header.seq + 1,
            before.id,
            header.hlc + 65536,
            Kind.ERASE,
            payload,
        )
