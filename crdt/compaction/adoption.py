"""What a snapshot comes to, before anything of it is taken. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from heapq import merge
from itertools import chain, islice
from typing import Final

from lattica.crdt.access.finality import Finality, decode_finality
from lattica.crdt.access.keyring import Keyring
from lattica.crdt.access.ownership import Ownership
from lattica.crdt.base.turns import Turns
from lattica.crdt.compaction.history import collect
from lattica.crdt.compaction.snapshot import Snapshot
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.remnant import has_signature
from lattica.crdt.log.authority import ownership_by
from lattica.crdt.log.clock import NEVER_EARLY, milliseconds_of
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.core import Log
from lattica.crdt.log.erasure.erasures import Erasures, erasures_in
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.prefix import FeedPrefix
from lattica.crdt.tree.search_tree import SearchTree
from lattica.crdt.types.state import State
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

_TURN: Final = 256
"""Entries."""


def leave_out_unfounded(read: Snapshot, genesis: Genesis) -> None:
    """Leave out what is said to be withdrawn where everybody may write, and is behind no fork:
    nothing else withdraws anything there, and its author's store would go on as another session.
    """
    if genesis.mode is not Mode.OPEN:
        return
    forks = {author: feed.fork for author, feed in read.feeds.items() if feed.fork is not None}
    read.withdrawn = [
        entry
        for entry in read.withdrawn
        if (fork := forks.get(entry.header.author)) is not None and entry.header.seq >= fork.seq
    ]


def is_news(
    read: Snapshot, log: Log, gone: Callable[[bytes], Mapping[int, tuple[bytes, bytes]]]
) -> Turns[bool]:
    """Whether a snapshot has anything that is not here: an entry, be only what is left of it here,
    a fork, or the signature of what is left. Whoever may give one may do so again and again: what
    brings nothing is to cost little. `gone` has by number what is left of an author's entries here,
    with their IDs.
    """
    if not all(log.knows(each.id) for each in read.withdrawn):
        return True
    for prefix in read.feeds.values():
        feed = log.feeds.get(prefix.author) or Feed(prefix.author)
        if prefix.fork != feed.fork or prefix.ids != feed.ids[: len(prefix.ids)]:
            return True
        left = gone(prefix.author)
        if any(each.header.seq in left for each in prefix.entries):
            return True
        for seq, remnant in prefix.remnants.items():
            if has_signature(remnant) and seq in left and not has_signature(left[seq][1]):
                return True  # earlier versions have left none
        yield
    return False


def check_authors(read: Snapshot, config: LogConfig, known: Mapping[bytes, object]) -> None:
    """Raises RemoteProtocolError for more authors than are taken here; `known` are here."""
    authors = read.feeds.keys() | {entry.header.author for entry in read.withdrawn}
    if len(known.keys() | authors) > config.max_authors:
        raise RemoteProtocolError("a snapshot with more authors than are taken here")


def check_limits(read: Snapshot, genesis: Genesis) -> None:
    """Raises RemoteProtocolError for what no replica can have admitted."""
    limits = genesis.limits
    for feed in read.feeds.values():
        if feed.size > limits.author_bytes or any(
            entry.header.payload_size > limits.entry_bytes
            for entry in feed.entries
            if entry.header.seq
        ):
            raise RemoteProtocolError("a snapshot with more of an author than he may write")


def check_final(read: Snapshot, genesis: Genesis) -> None:
    """Raises RemoteProtocolError for entries that were left out of a document with owners where
    none of them has called them final, which may have been any number; unless an owner is proved to
    have contradicted himself, so that what he has called that may not count any more, or their
    author has, so that what was named may not stand there any more. Whether what owners say has an
    effect is not asked yet.
    """
    if genesis.mode is Mode.OPEN or not any(each.remnants for each in read.feeds.values()):
        return
    ownership = ownership_by(genesis, read.feeds.values())
    nothing = FeedPrefix(b"")
    finality = Finality(lambda author: read.feeds.get(author, nothing).ids)
    for feed in read.feeds.values():
        for entry in feed.entries if ownership.was_owner(feed.identity) else ():
            if entry.header.kind == Kind.FINAL and entry.payload is not None:
                with suppress(RemoteProtocolError):  # then it is without effect
                    finality.learn(entry.id, decode_finality(entry.payload))
    _check_named(read, ownership, finality)


def _check_named(read: Snapshot, ownership: Ownership, finality: Finality) -> None:
    """As :func:`check_final`, by who owns the document and what owners say."""
    feeds = read.feeds.values()
    if any(feed.fork is not None and ownership.was_owner(feed.identity) for feed in feeds):
        return
    for feed in feeds:
        last = max(feed.remnants, default=0)
        if not last or (feed.fork is not None and finality.named_since(feed.author, last)):
            continue
        if not finality.covers(feed.author, last, feed.ids[last]):
            raise RemoteProtocolError("a snapshot without entries that no owner has called final")


def leave_out_early(
    read: Snapshot, genesis: Genesis, config: LogConfig, now_ms: int
) -> Turns[bool]:
    """Leave out of each chain of a verified snapshot what is from the future, and what depends on
    that, with what follows; whether there was anything. It comes again, as with any other chain:
    its maker's clock may be ahead for as long as he writes.
    """
    latest = now_ms + config.max_future * 1000
    if all(milliseconds_of(feed.hlc) <= latest for feed in read.feeds.values()):
        return False
    log = yield from _log_of(read, genesis, config, now_ms)
    for feed in [*read.feeds.values()]:
        feed.end_before(log.length(feed.author))
        if not feed.ids and feed.fork is None:
            del read.feeds[feed.author]
    return True


def replay(
    read: Snapshot, genesis: Genesis, identity: Identity, config: LogConfig
) -> Turns[tuple[State, SearchTree]]:
    """The state that the entries of a snapshot come to, and its tree, as far as `identity` can read
    it, whatever time it is. Those that no right covers take no effect, as everywhere.

    Raises:
        RemoteProtocolError: it has an entry that its own entries give nobody the right to write,
            or comes to another state than it says; who cannot read all of it does not see that, nor
            say it of a snapshot of a sealed document.
    """
    has_effect = open_payload = None
    if genesis.mode is Mode.OPEN:
        erasures = erasures_in(genesis, read.feeds, read.shown)
    else:
        log = yield from _admitted(read, genesis, config)
        has_effect, erasures = log.has_effect, log.erasures
        if genesis.is_sealed:
            open_payload = _keyring(read, log, identity).open
    _check_whole(read, erasures)
    state = State(genesis, has_effect, open_payload, lambda: erasures)
    yield from state.rebuilding(lambda: _by_time(read), lambda: read.withdrawn)
    tree = yield from SearchTree.making((yield from collect(state)))
    is_said = read.statement.root or not genesis.is_sealed
    if is_said and tree.root != read.statement.root and not state.unread:
        raise RemoteProtocolError("a snapshot that comes to another state than it says")
    return state, tree


def _check_whole(read: Snapshot, erasures: Erasures) -> None:
    """Raises RemoteProtocolError for entries without payloads that nobody has erased."""
    kept = (entry for feed in read.feeds.values() for entry in feed.entries)
    if not all(map(erasures.is_whole, chain(kept, read.withdrawn))):
        raise RemoteProtocolError("an entry of a snapshot without its payload")


def _by_time(read: Snapshot) -> Iterator[list[Entry]]:
    """The entries of a snapshot, in batches."""
    chains = [feed.entries for feed in read.feeds.values()]
    entries = merge(*chains, key=lambda entry: (entry.header.hlc, entry.header.author))
    while batch := list(islice(entries, _TURN)):
        yield batch


def _keyring(read: Snapshot, log: Log, identity: Identity) -> Keyring:
    """The read keys that a snapshot's entries give, which a log has admitted."""
    ownership = log.rights.ownership if log.rights is not None else None
    keyring = Keyring(log.genesis, identity, ownership)
    for feed in read.feeds.values():
        for entry in feed.entries:
            keyring.learn(entry, feed.identity)
    for entry in read.withdrawn:
        of = read.feeds.get(entry.header.author)
        keyring.learn(entry, of.identity if of is not None else b"", is_admitted=False)
    return keyring


def _log_of(read: Snapshot, genesis: Genesis, config: LogConfig, now_ms: int) -> Turns[Log]:
    """The log that has of a snapshot's entries those that can be admitted, and no others."""
    prefixes = read.feeds.values()

    def entry_at(author: bytes, seq: int) -> Entry:
        entry = read.feeds[author].entry_at(seq)
        if entry is None:
            raise LocalProtocolError(f"nothing but a remnant is here of entry {seq}")
        return entry

    def about_rights() -> Iterator[Entry]:
        return (each for feed in prefixes for each in feed.entries)

    log = Log(genesis, entry_at, config, about_rights=about_rights)
    yield from log.receiving_whole(prefixes, read.withdrawn, now_ms, read.shown)
    return log


def _admitted(read: Snapshot, genesis: Genesis, config: LogConfig) -> Turns[Log]:
    """The log that has a snapshot's entries and no others.

    Raises RemoteProtocolError for entries that nobody had the right to write, or that were left out
    where no owner has called them final; see :func:`check_final`.
    """
    log = yield from _log_of(read, genesis, config, NEVER_EARLY)
    if any(log.length(each.author) != len(each.ids) for each in read.feeds.values()):
        raise RemoteProtocolError("a snapshot with entries that nobody had the right to write")
    if log.rights is not None:
        _check_named(read, log.rights.ownership, log.rights.finality)
    return log
