"""Who may write what, by the entries of a log that say so."""

from __future__ import annotations

from collections.abc import Iterable

from lattica.crdt.access.rights import Rights
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry
from lattica.crdt.keys.session import decode_certificate
from lattica.crdt.log.feed import Feed


class Authority:
    """The rights that a log's entries give, and whether they have changed since the log was
    measured by them.
    """

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self.rights = None if genesis.mode is Mode.OPEN else Rights(genesis)
        """Who may do what; None: everybody may write."""
        self.is_changed = False

    def learn(self, feed: Feed, entry: Entry) -> None:
        """Take what an admitted entry says of rights."""
        rights = self.rights
        if rights is None:
            return
        if entry.header.seq == 0:
            self.learn_certificate(entry)
        elif rights.learn(entry, feed.identity):
            self.is_changed = True

    def learn_certificate(self, entry: Entry) -> None:
        """Take the capability that a session's first entry shows. Raises RemoteProtocolError."""
        header = entry.header
        if self.rights is None or self._genesis.mode is not Mode.CAPABILITY:
            return
        certificate = decode_certificate(entry.payload or b"", header.doc_id, header.author)
        if certificate.capability:
            self.rights.learn_certificate(entry.id, certificate.capability)

    def forget(self, entry_ids: Iterable[bytes]) -> None:
        """Take back what entries said that are not admitted any more."""
        if self.rights is not None:
            for entry_id in entry_ids:
                self.is_changed |= self.rights.forget(entry_id)
