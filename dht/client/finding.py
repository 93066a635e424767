"""Finding where a peer is, by its own record in the DHT and by peers that know it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.client.reading import Reader
from lattica.dht.client.told import host_of, judged
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.messages import MessageType, Request, Response
from lattica.dht.records.found import FoundPeer
from lattica.dht.records.keys import peer_key
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import open_record
from lattica.nat.base.net.addresses import split_peer

_REMEMBERED = 1024
"""Peers whose addresses are remembered from lookups."""


class PeerFinder:
    """Finds peers, and remembers where they were."""

    def __init__(self, peers: Peers, reader: Reader) -> None:
        self._peers = peers
        self._reader = reader
        self._remembered: OrderedDict[PeerId, FoundPeer] = OrderedDict()

    def remember(self, contact: Contact) -> FoundPeer:
        """Note at which IP addresses a peer is said to be."""
        plain = (addr for addr in contact.addrs if host_of(addr) is not None)
        found = FoundPeer.of(Contact(contact.key, contact.peer_id, tuple(plain)))
        if found.addrs:
            self._remembered[found.peer_id] = found
            self._remembered.move_to_end(found.peer_id)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    def remembered(self, peer_id: PeerId) -> FoundPeer | None:
        """Where a peer was found lately."""
        return self._remembered.get(peer_id)

    async def find(self, peer_id: PeerId) -> tuple[FoundPeer | None, int]:
        """Where a peer is, None if nobody knows, and how many were heard."""
        if self._peers.ties.is_connected(peer_id):
            known = self._peers.addresses_of(peer_id)
            return FoundPeer.of(Contact.of(peer_id, known)), 1
        found: list[Contact] = []
        answers = 0
        async with trio.open_nursery() as nursery:

            def take(contact: Contact | None) -> None:
                if contact is not None and contact.addrs:
                    found.append(contact)
                    nursery.cancel_scope.cancel()

            async def by_record() -> None:
                nonlocal answers
                contact, lookup = await self._by_record(peer_id)
                answers += lookup.answers
                take(contact)

            async def by_peers() -> None:
                nonlocal answers
                contact, lookup = await self._by_peers(peer_id)
                answers += lookup.answers
                take(contact)

            nursery.start_soon(by_record)
            nursery.start_soon(by_peers)
        return (self.remember(found[0]) if found else None), answers

    async def _by_record(self, peer_id: PeerId) -> tuple[Contact | None, Lookup]:
        """In its own, signed words."""
        record, teller, lookup = await self._reader.plain(peer_key(peer_id))
        if record is None or teller is None:
            return None, lookup
        said = open_record(record.value)
        contact = Contact.of(peer_id, (split_peer(addr)[0] for addr in said.addrs))
        contact = judged(contact, self._peers.ties.met_at(teller.peer_id))
        return await self._peers.located(contact), lookup

    async def _by_peers(self, peer_id: PeerId) -> tuple[Contact | None, Lookup]:
        """In the words of who has it in the table, or is connected to it."""
        found: list[Contact] = []

        def on_answer(lookup: Lookup, contact: Contact, answers: Sequence[Response]) -> None:
            for closer in answers[0].closer:
                if closer.peer_id == peer_id and closer.addrs:
                    found.append(closer)
                    lookup.stop()

        raw = peer_id.to_bytes()
        request = Request(MessageType.FIND_NODE, raw)
        lookup = await self._peers.look_up(key_of(raw), request, on_answer)
        return (await self._peers.located(found[0]) if found else None), lookup
