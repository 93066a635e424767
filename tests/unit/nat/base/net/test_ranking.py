"""Which addresses of a node are told first where there is no room for all."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.interfaces import LocalAddress, Use
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import fitting, ranked

RELAY = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def local(text: str, use: Use = Use.OPEN, *, is_default: bool = False) -> LocalAddress:
    return LocalAddress("eth0", ipaddress.ip_interface(text), use, is_default)


MACHINE = (
    *(local(f"172.{n}.0.1/16", Use.CONFINED) for n in range(17, 29)),
    local("10.9.0.1/24", Use.DOWN),
    local("2a00:1::1/64", Use.PASSING),
    local("2a00:1::2/64"),
    local("2a00:1::3/64"),
    local("10.1.0.2/24"),
    local("10.1.0.3/24"),
    local("192.168.1.5/24", is_default=True),
    local("127.0.0.1/8"),
)


def addrs(*texts: str) -> list[Multiaddr]:
    return list(map(Multiaddr, texts))


def own(port: int = 1) -> list[Multiaddr]:
    return [Multiaddr(f"/ip{a.ip.version}/{a.ip}/tcp/{port}") for a in MACHINE]


def relayed(host: str, relay: str = RELAY, via: str = "tcp/4001") -> Multiaddr:
    return Multiaddr(f"/ip4/{host}/{via}/p2p/{relay}/p2p-circuit")


def test_the_order():
    seen = Multiaddr("/ip4/8.8.8.8/tcp/1")
    ways = [relayed("10.1.0.9"), relayed("9.9.9.9"), relayed("9.9.9.9", via="udp/1/quic-v1/noise")]
    found = ranked([*own(), seen, *ways], local=MACHINE)
    assert list(map(str, found[:6])) == [
        str(ways[0]),
        str(seen),
        str(ways[2]),
        "/ip6/2a00:1::2/tcp/1",
        "/ip4/192.168.1.5/tcp/1",
        "/ip4/10.1.0.2/tcp/1",
    ]
    assert set(map(str, found[6:9])) == {
        str(ways[1]),
        "/ip6/2a00:1::3/tcp/1",
        "/ip4/10.1.0.3/tcp/1",
    }
    assert list(map(str, found[-3:])) == [
        "/ip6/2a00:1::1/tcp/1",
        "/ip4/10.9.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    ]


def test_both_ways_to_one_host_stay_together():
    found = ranked([*own(), *addrs("/ip4/192.168.1.5/udp/1/quic-v1/noise")], local=MACHINE)
    first = [str(addr).split("/")[2] for addr in found]
    assert first[:4] == ["2a00:1::2", "192.168.1.5", "192.168.1.5", "10.1.0.2"]


def test_many_relays_do_not_keep_out_the_rest():
    ways = [relayed(f"9.9.9.{n}", str(_peer(n))) for n in range(20)]
    found = ranked([*ways, *own(), Multiaddr("/dns4/example.org/tcp/1")], local=MACHINE)
    assert {"/dns4/example.org/tcp/1", "/ip4/192.168.1.5/tcp/1"} <= set(map(str, found[:8]))
    assert len(found) == len(ways) + len(MACHINE) + 1


def _peer(number: int) -> str:
    return str(PeerId(b"\x12\x20" + bytes([number]) * 32))


def test_what_strangers_met_counts():
    texts = addrs("/ip4/8.8.8.8/tcp/1", "/ip4/8.8.9.8/tcp/1", "/ip4/10.1.0.2/tcp/1")
    here = (local("8.8.8.8/24"), local("8.8.9.8/24"), local("10.1.0.2/24"))
    found = ranked(texts, local=here, reachable=[texts[1]], unreachable=[texts[0]])
    assert found == [texts[1], texts[2], texts[0]]


def test_the_relays_own_place_does_not_hide_it_on_one_machine():
    way = relayed("127.0.0.1")
    assert ranked([way, *addrs("/ip4/10.1.0.2/tcp/1")], local=MACHINE)[1] == way


@given(st.permutations([*own(), relayed("9.9.9.9"), Multiaddr("/ip4/8.8.8.8/tcp/1")]))
def test_nothing_is_lost_and_the_best_are_always_in_front(given_addrs):
    found = ranked(given_addrs * 2, local=MACHINE)
    assert sorted(map(str, found)) == sorted(map(str, given_addrs))
    assert {str(relayed("9.9.9.9")), "/ip4/8.8.8.8/tcp/1"} == set(map(str, found[:2]))
    assert str(found[3]) == "/ip4/192.168.1.5/tcp/1"
    assert ranked(found, local=MACHINE)[:4] == found[:4]


@pytest.mark.parametrize(("count", "size", "kept"), [(2, 1000, 2), (9, 15, 1), (9, 7, 0)])
def test_what_fits(count, size, kept):
    three = addrs("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.5/tcp/1", "/ip4/1.2.3.6/tcp/1")
    assert fitting(three, count, size) == tuple(three[:kept])
