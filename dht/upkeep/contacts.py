"""Keeps peers of the table over a restart, so that a node finds back without its bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from lattica.dht.kademlia.contact import Contact
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr

_FIRST = 10.0
_EVERY = 300.0
"""Seconds between two looks at the table."""


class SavedContacts:
    """What is in the file of the peers that are nearest to this node.

    Args:
        nearest: the peers to keep, as they are now.
    """

    def __init__(self, nearest: Callable[[], Iterable[Contact]], journal: Journal) -> None:
        self._nearest = nearest
        self._journal = journal
        self._saved: dict[bytes, Contact] = {}

    @property
    def contacts(self) -> tuple[Contact, ...]:
        """Those of the file."""
        return tuple(self._saved.values())

    async def run(self) -> None:
        """Until cancelled."""
        pause = _FIRST
        while True:
            await trio.sleep(pause)
            pause = _EVERY
            self.save()

    def save(self) -> None:
        """Keep who is in the table now, if anybody is."""
        now = {contact.peer_id.to_bytes(): contact for contact in self._nearest()}
        if not now:
            return
        for raw in self._saved.keys() | now.keys():
            if self._saved.get(raw) != now.get(raw):
                self._journal.changed(RowId(Kind.CONTACT, raw))
        self._saved = now

    def row(self, row_id: RowId) -> Row | None:
        """A row as it is now; None: gone."""
        contact = self._saved.get(row_id.id)
        return None if contact is None else Row(row_id, pack(list(map(str, contact.addrs))))

    def load(self, row: Row) -> None:
        """Take a row from a file; what is wrong with it is left out."""
        fields = unpack(row.data, 1)
        if fields is None or not isinstance(fields[0], list):
            return
        try:
            addrs = [parse_multiaddr(addr) for addr in fields[0] if isinstance(addr, str)]
            self._saved[row.row_id.id] = Contact.of(PeerId(row.row_id.id), addrs)
        except ValueError:
            return
