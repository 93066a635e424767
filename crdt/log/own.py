"""Entries of one's own, as a log lets them be written."""

from __future__ import annotations

from collections.abc import Sequence

from lattica.crdt.access.rights import Verdict
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.core import Log
from lattica.crdt.log.feed import Feed
from lattica.nat.base.errors import AccessDeniedError, LocalProtocolError, ResourceLimitError
from lattica.nat.base.keys.identity import Identity


def prepare(
    log: Log,
    session: SessionKey,
    identity: Identity,
    payloads: Sequence[tuple[Kind, bytes, tuple[bytes, ...]]],
    now_ms: int,
    capability: bytes = b"",
    appointments: bytes = b"",
) -> list[Entry]:
    """Sign entries of one's own: for each kind, payload and dependencies, in order.

    Nothing is changed here: :meth:`Log.commit` does that once they are safe on disk, and before
    they are sent. A session that is new begins with its certificate.

    Raises:
        LocalProtocolError: a payload is too large, a dependency is not here, or the session
            has forked.
        AccessDeniedError: the identity has no right to write.
        ResourceLimitError: the quota of the session is used up.
    """
    doc_id, author = log.genesis.doc_id, session.author
    feed = log.feeds.get(author) or Feed(author)
    if feed.fork is not None:
        raise LocalProtocolError("this session has contradicted itself; begin another one")
    for _, payload, deps in payloads:
        if len(payload) > log.genesis.limits.entry_bytes:
            raise LocalProtocolError(
                f"an entry of {len(payload)} bytes, where {log.genesis.limits.entry_bytes} "
                "are allowed"
            )
        if not all(map(log.knows, deps)):
            raise LocalProtocolError("an entry that depends on one that is not here")
    items = list(payloads)
    if not feed.ids:
        certificate = session.certificate(identity, doc_id, capability, appointments).encode()
        items.insert(0, (Kind.SESSION, certificate, ()))
    entries: list[Entry] = []
    seq, prev, size = len(feed.ids), feed.ids[-1] if feed.ids else doc_id, feed.size
    for kind, payload, deps in items:
        hlc = log.clock.tick(now_ms)
        entry = sign_entry(session, doc_id, seq, prev, hlc, kind, payload, deps)
        entries.append(entry)
        seq, prev, size = seq + 1, entry.id, size + entry.size
    _check_own(log, entries, identity.public_key.data)
    if size > log.genesis.limits.author_bytes:
        raise ResourceLimitError(
            f"a session may write {log.genesis.limits.author_bytes} bytes to this document"
        )
    return entries


def _check_own(log: Log, entries: Sequence[Entry], identity: bytes) -> None:
    """Raises AccessDeniedError if not all entries that are written here may be."""
    rights = log.rights
    if rights is None:
        return
    first = entries[0]
    if first.header.seq == 0:
        log.authority.learn_certificate(first)
    feed = Feed(first.header.author, identity)
    try:
        if any(log.authority.verdict(feed, each) is not Verdict.ALLOWED for each in entries):
            raise AccessDeniedError(
                "this peer has no right to write to the document, or no more; an owner can "
                "give it one"
            )
    finally:
        if first.header.seq == 0:
            rights.forget(first.id)
