"""Contacts with chosen keys, and a network of tables that lookups run through, without a clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from lattica.dht.kademlia.config import LookupConfig, TableConfig
from lattica.dht.kademlia.contact import KEY_BITS, Contact
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr


def contact(key: int, *addrs: str) -> Contact:
    """A peer at a chosen place in the space of keys, as no real one can be."""
    peer_id = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    return Contact(key, peer_id, tuple(map(Multiaddr, addrs)))


def at(bits: str) -> int:
    """The key that begins with these bits, and goes on with zeros."""
    return int(bits, 2) << (KEY_BITS - len(bits))


class StillNet:
    """Peers that all know what Kademlia wants them to know."""

    def __init__(self, size: int, seed: int) -> None:
        rng = random.Random(seed)
        self.contacts = [contact(rng.getrandbits(KEY_BITS)) for _ in range(size)]
        self.tables: dict[int, RoutingTable] = {}
        for one in self.contacts:
            table = RoutingTable(one.key, TableConfig(), 0.0)
            for other in rng.sample(self.contacts, size):
                table.answered(other, None, 0.0)
            self.tables[one.key] = table

    def honest(self, target: int) -> Callable[[Contact], list[Contact]]:
        """What each peer says when it is asked for those nearer to `target`."""
        return lambda peer: self.tables[peer.key].closest(target, 20)

    def nearest(self, target: int, count: int = 20) -> list[int]:
        return sorted((c.key for c in self.contacts), key=lambda key: key ^ target)[:count]


def run_lookup(
    lookup: Lookup, answer: Callable[[Contact], Iterable[Contact] | None], *, now: float = 0.0
) -> int:
    """Run a lookup to its end; `answer` gives what a peer says, or None where it fails. Returns
    the number of rounds."""
    rounds = 0
    while not lookup.is_done:
        asked = lookup.next_queries(now)
        assert asked, "neither done nor anything to do"
        rounds += 1
        for one in asked:
            closer = answer(one)
            if closer is None:
                lookup.failed(one.key)
            else:
                lookup.answered(one.key, closer, now)
    return rounds


CONFIG = LookupConfig()
