"""/dnsaddr: which records count, how far they lead, and what that may cost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net import dnsaddr
from lattica.nat.base.net.dnsaddr import MAX_DEPTH, MAX_LOOKUPS, MAX_RESULTS, Budget, expand
from lattica.nat.base.net.multiaddr import Multiaddr

ONE, OTHER, RELAY = (Identity(bytes([n]) * 32).peer_id for n in (1, 2, 3))


class Zone:
    """TXT records by name."""

    def __init__(self, records: dict[str, list[str]]) -> None:
        self.records = records
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        try:
            return self.records[name.removeprefix("_dnsaddr.")]
        except KeyError:
            raise OSError("no such name") from None


async def expanded(zone: Zone, text: str, peer_id=None, budget: Budget | None = None) -> list[str]:
    return [str(a) for a in await expand(Multiaddr(text), peer_id, budget or Budget(), zone)]


async def test_records_of_several_peers() -> None:
    zone = Zone(
        {
            "net.example": [
                "v=spf1 -all",
                "dnsaddr=nonsense",
                "dnsaddr=",
                "dnsaddr=/dnsaddr/a.example/p2p/" + str(ONE),
                f"dnsaddr=/ip4/192.0.2.2/tcp/1/p2p/{OTHER}",
                f"dnsaddr=/ip4/192.0.2.3/tcp/1/ipfs/{OTHER}",
            ],
            "a.example": [
                f"dnsaddr=/dns4/a.example/tcp/4001/p2p/{ONE}",
                f"dnsaddr=/ip6/2001:db8::1/udp/4001/quic-v1/noise/p2p/{ONE}",
                f"dnsaddr=/ip4/192.0.2.9/tcp/1/p2p/{OTHER}",
            ],
        }
    )
    ones = [
        f"/dns4/a.example/tcp/4001/p2p/{ONE}",
        f"/ip6/2001:db8::1/udp/4001/quic-v1/noise/p2p/{ONE}",
    ]
    others = [f"/ip4/192.0.2.{n}/tcp/1/p2p/{OTHER}" for n in (2, 3)]
    assert zone.asked == []
    assert sorted(await expanded(zone, "/dnsaddr/net.example")) == sorted(ones + others)
    assert zone.asked == ["_dnsaddr.net.example", "_dnsaddr.a.example"]
    assert await expanded(zone, f"/dnsaddr/net.example/p2p/{ONE}") == ones
    assert await expanded(zone, "/dnsaddr/net.example", ONE) == ones
    assert await expanded(zone, f"/dnsaddr/net.example/p2p/{OTHER}", OTHER) == others
    assert await expanded(zone, f"/dnsaddr/net.example/p2p/{OTHER}", ONE) == []


async def test_what_follows_a_relay_leads_on() -> None:
    zone = Zone({"relay.example": [f"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{RELAY}"]})
    onward = f"/p2p-circuit/p2p/{ONE}"
    direct = [f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}{onward}"]
    for relay in (f"/p2p/{RELAY}", ""):
        assert await expanded(zone, f"/dnsaddr/relay.example{relay}{onward}", ONE) == direct
    assert await expanded(zone, f"/dnsaddr/relay.example/p2p/{OTHER}{onward}", ONE) == []


async def test_a_circle_ends() -> None:
    zone = Zone(
        {
            "a.example": ["dnsaddr=/dnsaddr/b.example", "dnsaddr=/ip4/192.0.2.1/tcp/1"],
            "b.example": ["dnsaddr=/dnsaddr/a.example", "dnsaddr=/ip4/192.0.2.2/tcp/1"],
        }
    )
    found = await expanded(zone, "/dnsaddr/a.example")
    assert found == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]
    assert len(zone.asked) == 2


async def test_a_chain_is_followed_so_far(caplog) -> None:
    caplog.set_level("INFO")
    zone = Zone({f"n{n}.example": [f"dnsaddr=/dnsaddr/n{n + 1}.example"] for n in range(99)})
    assert await expanded(zone, "/dnsaddr/n0.example") == []
    assert len(zone.asked) == MAX_DEPTH
    assert "too many steps" in caplog.text


async def test_the_budget_is_for_all_together() -> None:
    tree = Zone(
        {
            "root.example": [f"dnsaddr=/dnsaddr/leaf{n}.example" for n in range(500)],
            **{
                f"leaf{n}.example": [f"dnsaddr=/ip4/192.0.2.{k}/tcp/{n + 1}" for k in range(200)]
                for n in range(500)
            },
        }
    )
    budget = Budget()
    assert len(await expanded(tree, "/dnsaddr/root.example", budget=budget)) == MAX_RESULTS
    assert len(tree.asked) == MAX_LOOKUPS
    assert await expanded(tree, "/dnsaddr/root.example", budget=budget) == []
    assert len(tree.asked) == MAX_LOOKUPS


async def test_no_answer(caplog) -> None:
    caplog.set_level("INFO")
    assert await expanded(Zone({}), "/dnsaddr/none.example") == []
    assert "cannot resolve /dnsaddr/none.example: no such name" in caplog.text


@pytest.mark.parametrize("text", ["/ip4/192.0.2.1/tcp/1", "/dns/a.example/tcp/1", ""])
def test_what_is_none(text: str) -> None:
    assert not dnsaddr.is_dnsaddr(Multiaddr(text))
