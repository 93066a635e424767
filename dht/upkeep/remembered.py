"""Keeps over a restart what a node knows of its network: peers of the table, so that it finds back
without its bootstrap, and how large the network is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import trio

from lattica.dht.kademlia.contact import KEY_BITS, Contact
from lattica.dht.kademlia.network_size import Sample, SizeEstimator
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr

KINDS = (Kind.CONTACT, Kind.STATE)
_EVERY = 5.0
"""Seconds between two looks at what has changed: so much is lost when the process is killed."""
_SIZE = RowId(Kind.STATE, b"network-size")
_KEY = KEY_BITS // 8
_MOST_SAMPLES = 256
_MOST_CONTACTS = 400


class Remembered:
    """What is in the file of the network.

    Args:
        nearest: the peers of the table to keep, as they are now.
        sizes: what is known of its size.
    """

    def __init__(
        self, nearest: Callable[[], Iterable[Contact]], sizes: SizeEstimator, journal: Journal
    ) -> None:
        self._nearest = nearest
        self._sizes = sizes
        self._journal = journal
        self._saved: dict[bytes, Contact] = {}
        self._samples: tuple[Sample, ...] = ()

    @property
    def contacts(self) -> tuple[Contact, ...]:
        """Those of the file."""
        return tuple(self._saved.values())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(_EVERY)
            self.save()

    def save(self) -> None:
        """Keep what is known now.

        Where most of the peers have gone, it may be this node that is cut off: none of those that
        were there is forgotten then.
        """
        samples = self._sizes.samples
        if samples != self._samples:
            self._samples = samples
            self._journal.changed(_SIZE)
        now = {contact.peer_id.to_bytes(): contact for contact in self._nearest()}
        if len(now) <= len(self._saved) // 2:
            now = dict(islice((now | {**self._saved, **now}).items(), _MOST_CONTACTS))
        for raw in self._saved.keys() | now.keys():
            if self._saved.get(raw) != now.get(raw):
                self._journal.changed(RowId(Kind.CONTACT, raw))
        self._saved = now

    def row(self, row_id: RowId) -> Row | None:
        """A row of one of :data:`KINDS` as it is now; None: gone."""
        if row_id.kind is Kind.STATE:
            return Row(row_id, pack([_fields(sample) for sample in self._samples]))
        contact = self._saved.get(row_id.id)
        return None if contact is None else Row(row_id, pack(list(map(str, contact.addrs))))

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        yield _SIZE
        for raw in self._saved:
            yield RowId(Kind.CONTACT, raw)

    def load(self, row: Row) -> None:
        """Take a row from a file; what is wrong with it is left out."""
        fields = unpack(row.data, 1)
        if fields is None or not isinstance(fields[0], list):
            return
        if row.row_id == _SIZE:
            samples = map(_sample, fields[0][-_MOST_SAMPLES:])
            self._samples = tuple(sample for sample in samples if sample is not None)
            self._sizes.restore(self._samples)
        elif row.row_id.kind is Kind.CONTACT:
            try:
                addrs = [parse_multiaddr(addr) for addr in fields[0] if isinstance(addr, str)]
                self._saved[row.row_id.id] = Contact.of(PeerId(row.row_id.id), addrs)
            except ValueError:
                return


def _fields(sample: Sample) -> tuple[bytes, bytes, float]:
    return sample.target.to_bytes(_KEY, "big"), sample.span.to_bytes(_KEY, "big"), sample.peers


def _sample(fields: object) -> Sample | None:
    """What :func:`_fields` made; None: the file was written by something else."""
    match fields:
        case [bytes(target), bytes(span), float(peers)] if (
            len(target) == len(span) == _KEY and math.isfinite(peers) and peers > 0
        ):
            return Sample(int.from_bytes(target, "big"), int.from_bytes(span, "big"), peers)
    return None
