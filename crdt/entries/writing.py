"""Making entries: what a session signs."""

from __future__ import annotations

import hashlib

from lattica.crdt.entries.header import Entry, Header
from lattica.crdt.keys.session import SessionKey


def sign_entry(
    session: SessionKey,
    doc_id: bytes,
    seq: int,
    prev_id: bytes,
    hlc: int,
    kind: int,
    payload: bytes,
    deps: tuple[bytes, ...] = (),
) -> Entry:
    """An entry of `session`. That it signs one only for each `seq` is the caller's to see to."""
    digest = hashlib.sha256(payload).digest()
    header = Header(
        doc_id, session.author, seq, prev_id, deps, hlc, int(kind), digest, len(payload)
    )
    return Entry(header, session.sign(header.signed_bytes), payload)
