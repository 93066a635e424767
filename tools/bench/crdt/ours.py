"""What our store does in a second: everything verified, merged and on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.sync.session import SyncSession
from lattica.crdt.types.payloads import RegisterWrite
from lattica.nat.base.keys.identity import Identity

GENESIS = Genesis("bench")
_BATCH = 1000
_NONCE = bytes(16)
T = TypeVar("T")


@contextmanager
def documents(count: int) -> Iterator[list[Document]]:
    """Empty replicas of one document, each in a file of its own."""
    with TemporaryDirectory(prefix="lattica-bench-") as folder, ExitStack() as stack:
        yield [
            stack.enter_context(
                Document(Path(folder, f"{number}.sqlite3"), GENESIS, Identity(bytes([number]) * 32))
            )
            for number in range(count)
        ]


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def write_keys(document: Document, keys: int) -> None:
    """So many names, each written once."""
    for start in range(0, keys, _BATCH):
        names = range(start, min(start + _BATCH, keys))
        document.write(*(RegisterWrite(f"key/{each}", f"value {each}") for each in names))


def chain_of(number: int, count: int) -> list[Entry]:
    """An author's first entries."""
    session = SessionKey(number.to_bytes(32, "big"))
    doc_id, now = GENESIS.doc_id, time.time_ns() // 1_000_000 << 16
    certificate = session.certificate(Identity(number.to_bytes(32, "big")), doc_id).encode()
    entries = [sign_entry(session, doc_id, 0, doc_id, now, Kind.SESSION, certificate)]
    for seq in range(1, count):
        payload = RegisterWrite(f"key/{number}/{seq % 50}", seq).encode()
        entries.append(
            sign_entry(session, doc_id, seq, entries[-1].id, now + seq, Kind.REGISTER, payload)
        )
    return entries


def single_entries(count: int) -> tuple[float, float]:
    """Entries a second that come one by one, and bytes of each beside its payload."""
    entries = chain_of(1, count)
    chains = [encode_chain([entry], with_prev=False) for entry in entries]
    with documents(1) as (document,):
        _ = document.state  # from now on what comes is merged at once
        seconds, _ = timed(lambda: [document.receive(chain, "peer") for chain in chains])
        assert document.heads()[entries[0].header.author][0] == count
    overhead = sum(map(len, chains)) - sum(len(entry.payload or b"") for entry in entries)
    return count / seconds, overhead / count


def chained_entries(count: int) -> float:
    """Entries a second that come in chains of 1,000."""
    entries = chain_of(1, count)
    chains = [
        encode_chain(entries[start : start + _BATCH], with_prev=True)
        for start in range(0, count, _BATCH)
    ]
    with documents(1) as (document,):
        _ = document.state
        seconds, _ = timed(lambda: [document.receive(chain, "peer") for chain in chains])
        assert sum(length for length, _ in document.heads().values()) == count
    return count / seconds


def fresh_replica(keys: int) -> tuple[float, float, float]:
    """Seconds to write so many keys, and in which a fresh replica has them: by log, by snapshot."""
    with documents(3) as (source, by_log, by_snapshot):
        written, _ = timed(lambda: write_keys(source, keys))
        chains = list(source.chains_since({}))
        _ = by_log.state
        logged, _ = timed(lambda: [by_log.receive(chain, "peer") for chain in chains])
        assert by_log.root == source.root
        parts, signer = source.snapshot(), Identity(bytes(32)).public_key.data

        def join() -> None:
            by_snapshot.receive_snapshot(parts, [signer])
            assert by_snapshot.root == source.root

        joined, _ = timed(join)
    return written, logged, joined


def reconciled(authors: int, differing: int) -> tuple[float, float]:
    """Turns, and bytes both ways, in which replicas with so many authors find those that differ."""
    with documents(2) as (one, other):
        for number in range(1, authors + 1):
            entries = chain_of(number, 3 if number <= differing else 2)
            one.receive(encode_chain(entries, with_prev=True), "peer")
            other.receive(encode_chain(entries[:2], with_prev=True), "peer")
        sides = [
            SyncSession(document, name, _NONCE, is_opener=document is one)
            for document, name in ((one, "one"), (other, "other"))
        ]
        speaker = 0
        while not all(side.is_over for side in sides):
            for message in sides[speaker].turn():
                sides[1 - speaker].take(message)
            speaker = 1 - speaker
        assert one.heads() == other.heads()
        counts = sides[0].counts
        return float(counts.turns), float(counts.sent_bytes + counts.received_bytes)
