"""What an owner calls final, so that the history behind it can go."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from lattica.crdt.access.finality import encode_finality, in_pieces
from lattica.crdt.base.turns import Turns
from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.feed import Feed
from lattica.nat.base.errors import LocalProtocolError, ResourceLimitError

logger = logging.getLogger(__name__)


class DocumentFinality:
    """Of one document with owners."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def declaring(self, before_ms: int) -> Turns[None]:
        """Say as an owner, in turns, that what was written before a time, and had come here by
        then, counts for good, whatever right is taken back later. Who is none, or frozen, says
        nothing.
        """
        writer = self._writer
        writer.take_office()
        if not writer.is_owner:
            return
        feeds = writer.replica.log.feeds
        found: list[tuple[bytes, int, bytes]] = []
        for feed in [*feeds.values()]:
            found += self._last(feed, max(0, before_ms))
            yield
        # Rights may have been taken back meanwhile.
        feeds = writer.replica.log.feeds
        last = [each for each in found if each[0] in feeds and feeds[each[0]].has(*each[1:])]
        if not last or not writer.is_owner:
            return
        pieces = in_pieces(last, writer.replica.genesis.payload_room)
        try:
            writer.write([(Kind.FINAL, encode_finality(piece)) for piece in pieces])
        except (LocalProtocolError, ResourceLimitError) as error:
            path = writer.replica.database.path
            logger.warning("nothing more can be called final: %s file=%s", error, path)

    def _last(self, feed: Feed, before_ms: int) -> Iterator[tuple[bytes, int, bytes]]:
        """The last of a session's entries of before a time that its author has signed by itself, if
        that is not final yet and is not only what was said of this: there would be no end to it.

        Of an owner who has contradicted himself it is before any right that he has given in vain:
        as a final one it would count.
        """
        rights = self._writer.rights
        in_doubt = rights.ownership.is_in_doubt(feed.author, feed.identity)
        last: list[tuple[bytes, int, bytes]] = []
        is_news = False
        for entry in self._writer.replica.database.entries_before(feed.author, before_ms):
            header = entry.header
            if rights.is_final(header) or (is_news and not in_doubt):
                break
            is_right = in_doubt and header.kind == Kind.GRANT
            if is_right and not rights.ownership.acts(header, feed.identity):
                last, is_news = [], False
                continue
            if not last and entry.is_signed():
                last = [(feed.author, header.seq, entry.id)]
            is_news = is_news or (bool(last) and header.kind != Kind.FINAL)
        if is_news:
            yield from last
