"""Signed records of peers, to be given away in peer exchange."""

from __future__ import annotations

from collections import OrderedDict

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import MAX_RECORD

_MAX_PEERS = 512


class PeerRecords:
    """The records, in their envelopes, of the peers that have said who they are latest."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, bytes] = OrderedDict()

    def take(self, peer_id: PeerId, record: bytes) -> None:
        """What a peer has said of itself; whoever gets it checks it."""
        if 0 < len(record) <= MAX_RECORD:
            self._records.pop(peer_id, None)
            self._records[peer_id] = record
            if len(self._records) > _MAX_PEERS:
                self._records.popitem(last=False)

    def get(self, peer_id: PeerId) -> bytes:
        """Its record; empty if there is none."""
        return self._records.get(peer_id, b"")
