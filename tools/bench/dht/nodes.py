"""Simulated nodes, and what they answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.network_size import SizeEstimator
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from tools.bench.dht.latency import Place


class Conduct(Enum):
    """What a node answers. Those that are not honest say that they keep what they are given, keep
    nothing, and have nothing when they are asked."""

    HONEST = auto()
    COLLUDES = auto()
    """With the nearest of the liars."""
    INVENTS = auto()
    """Peers that are not there, right next to the key."""
    JUNK = auto()
    """Bytes that are no answer."""
    SILENT = auto()


@dataclass(eq=False, slots=True)
class SimNode:
    """One node."""

    contact: Contact
    table: RoutingTable
    sizes: SizeEstimator
    place: Place
    serves: bool
    """Not behind a NAT: it answers, and is in the tables of others."""
    conduct: Conduct = Conduct.HONEST
    group: str | None = None
    """Its network, where it shares one with others."""
    side: int = 0
    """Of a network in two halves."""
    is_sybil: bool = False
    is_up: bool = True
    connections: OrderedDict[int, SimNode] = field(default_factory=OrderedDict)
    stored: set[int] = field(default_factory=set)
    """Keys of the records that it keeps."""
    served: int = 0
    """Questions that it has answered."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a peer is asked besides for those nearer to a target."""

    record: int | None = None
    """Whether it has this record."""
    store: bool = False
    """It is to keep the record, and then to say whether it has it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it says."""

    closer: Sequence[Contact]
    has_it: bool = False


def contact_at(key: int, *addrs: str) -> Contact:
    """A peer at a chosen place: who has which key in its ID makes no difference here."""
    peer_id = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    return Contact(key, peer_id, tuple(map(Multiaddr, addrs)))
