"""Which nodes serve the DHT."""

from __future__ import annotations

import pytest

from lattica.dht.upkeep.mode import is_on_internet, serves
from lattica.nat.base.net.multiaddr import Multiaddr

LAN = Multiaddr("/ip4/192.168.1.2/tcp/4001")
PUBLIC = Multiaddr("/ip4/1.2.3.4/tcp/4001")
ID = "12D3KooWE2ZtyqXhcvgTRTscCr4PLDh2VUyinfeYHQJiDwi6rwRR"
RELAYED = Multiaddr(f"/ip4/1.2.3.4/tcp/4001/p2p/{ID}/p2p-circuit")


@pytest.mark.parametrize(
    ("own", "met_internet", "reachable", "expected"),
    [
        ((LAN,), False, None, True),
        ((LAN,), True, None, False),
        ((LAN, PUBLIC), True, None, True),
        ((LAN, RELAYED), True, None, False),
        ((RELAYED,), False, None, False),
        ((), False, None, False),
        ((LAN,), True, True, True),
        ((PUBLIC,), False, False, False),
    ],
)
def test_a_node_serves_where_others_can_reach_it(own, met_internet, reachable, expected):
    found = serves("auto", reachable=reachable, own=own, met_internet=met_internet)
    assert found is expected


def test_what_is_set_is_not_found_out():
    for mode in ("client", "server"):
        is_server = serves(mode, reachable=None, own=(), met_internet=True)
        assert is_server is (mode == "server")


def test_peers_over_relays_and_in_local_networks_are_not_met_on_the_internet():
    assert is_on_internet(PUBLIC)
    assert not is_on_internet(LAN)
    assert not is_on_internet(RELAYED)
