"""What an owner calls final, so that the history behind it can go."""

from __future__ import annotations

from collections.abc import Iterator

from lattica.crdt.access.finality import encode_finality, in_pieces
from lattica.crdt.base.turns import Turns
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.entries.header import MAX_HLC, Kind
from lattica.crdt.log.feed import Feed


class DocumentFinality:
    """Of one document with owners."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def declaring(self, before_ms: int) -> Turns[None]:
        """Say as an owner, in turns, that what was written before a time counts for good, whatever
        right is taken back later. Who is none, or frozen, says nothing.
        """
        self._writer.take_office()
        if not self._writer.is_owner:
            return
        before = max(0, min(before_ms << 16, MAX_HLC))
        last: list[tuple[bytes, int, bytes]] = []
        for feed in [*self._writer.replica.log.feeds.values()]:
            last += self._last(feed, before)
            yield
        if last and self._writer.is_owner:
            self._writer.write([(Kind.FINAL, encode_finality(piece)) for piece in in_pieces(last)])

    def _last(self, feed: Feed, hlc: int) -> Iterator[tuple[bytes, int, bytes]]:
        """The last of a session's entries of before a hybrid time that its author has signed by
        itself, if that is not final yet.
        """
        rights = self._writer.rights
        for entry in self._writer.replica.database.entries_before(feed.author, hlc):
            if rights.is_final(entry.header):
                return
            if entry.is_signed():
                yield feed.author, entry.header.seq, entry.id
                return
