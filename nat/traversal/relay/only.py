"""A node that shows its own addresses to its relays alone (`nat.relay_only`).

Whoever it dials sees where it is, before it is known who answers, and so does whoever is asked to
look up a name; so it dials the relays that were configured, at the addresses that were configured,
and all others through them (:meth:`~lattica.nat.secure.gater.Gater.check_dial`). What it says of
itself, by identify, in signed records, tickets and the DHT, are its addresses at these relays. What
would look for another way to it is not begun: listeners, hole punching, AutoNAT, STUN, the router.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.config import TraversalConfig


def only_relays(swarm: Swarm, config: TraversalConfig) -> TraversalConfig:
    """Have a swarm, which does not run yet, show itself to the relays in `config` alone; the
    settings of what gets it through NATs then."""
    allowed: dict[PeerId, set[Multiaddr]] = defaultdict(set)
    for text in config.relay.relays:
        addr, relay = split_peer(parse_multiaddr(text))
        if relay is not None:
            allowed[relay].add(addr)
    swarm.gater.only_dial({relay: frozenset(addrs) for relay, addrs in allowed.items()})
    swarm.own_addresses.only_relayed = True
    return replace(
        config,
        relay=replace(config.relay, use_bootstrap=False),
        autonat=replace(config.autonat, client=replace(config.autonat.client, enabled=False)),
        port_mapping=replace(config.port_mapping, enabled=False),
    )
