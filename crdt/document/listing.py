"""The entries of a document, as a person wants to see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lattica.crdt.access.keyring import NoReadKeyError
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.identities import peer_of
from lattica.crdt.log.clock import milliseconds_of
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.types.payloads import decode_write
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry, as a person wants to see it."""

    milliseconds: int
    """Since 1970, as its author says."""
    peer: PeerId
    author: bytes
    """The session key."""
    seq: int
    id: bytes
    kind: str
    name: str | None
    """Where it writes at, if it does and that can be read here."""
    size: int
    """Bytes."""
    is_erased: bool = False
    """Whether it has no payload any more."""


def listed(replica: Replica) -> Iterator[LogEntry]:
    """What was written, as far as it is admitted, by time."""
    log = replica.log
    for entry in replica.database.all_entries():
        header = entry.header
        try:
            write = decode_write(header.kind, replica.open_payload(entry) or b"")
        except (RemoteProtocolError, NoReadKeyError):
            write = None
        known = header.kind in [*Kind]
        yield LogEntry(
            milliseconds_of(header.hlc),
            peer_of(log.feeds[header.author].identity),
            header.author,
            header.seq,
            entry.id,
            Kind(header.kind).name.lower() if known else f"kind {header.kind}",
            write.name if write is not None else None,
            entry.size,
            entry.payload is None,
        )
