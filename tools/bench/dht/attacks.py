"""Sybils next to a key: identities made for that, so that all of its nearest peers are theirs."""

from __future__ import annotations

from lattica.dht.kademlia.contact import KEY_BITS
from tools.bench.dht.network import Network

_TOLD = 200
"""Of the honest nodes nearest to the key, which Sybils have answer them so that they are known."""


def place_sybils(network: Network, key: int, count: int, *, groups: int | None) -> None:
    """Nodes nearer to a key than any honest one, that all nodes near it have met.

    Args:
        groups: networks (IPv4 /24) that they are in; None: each in one of its own.
    """
    nearest = network.nearest(key, 1, honest=True)[0] ^ key
    honest = network.nearest(key, _TOLD, honest=True)
    bits = min(nearest.bit_length() - 2, KEY_BITS - 4)
    sybils = []
    for number in range(count):
        network_number = number if groups is None else number % groups
        first, second = 20 + network_number // 250 % 60, network_number % 250
        addr = f"/ip4/{first}.{second}.7.{number % 250 + 1}/tcp/4001"
        near = key ^ network.rng.getrandbits(bits)
        sybil = network.make_node(key=near, addr=addr, group=f"{first}.{second}.7.0/24")
        sybils.append(sybil)
    network.eclipsed[key] = [sybil.contact for sybil in sybils]
    for sybil in sybils:
        for other in honest:
            node = network.nodes[other]
            if node.table.is_wanted(sybil.contact.key, sybil.group):
                node.table.answered(sybil.contact, sybil.group, network.now)
