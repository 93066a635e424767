"""Hosts with many addresses: what is told of them leads to them all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.content.ticket import Ticket
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.netlab.holders import Holder, namespaces, require_root, require_tool

MAIN = ("-c", "from lattica.cli import main; main()")
LOOK = """
import json
from lattica.nat.base.net.interfaces import local_addresses
print(json.dumps([[a.name, str(a.ip), a.use.name, a.is_default] for a in local_addresses()]))
"""
BRIDGES = [
    line
    for n in range(12)
    for line in (
        f"link add br{n} type bridge",
        f"addr add 172.{17 + n}.0.1/16 dev br{n}",
        f"link set br{n} up",
    )
]
IPV6 = [
    *(f"addr add 2a00:1:2:3::{n:x}/64 dev eth0 nodad preferred_lft 0" for n in range(1, 21)),
    *(f"addr add 2a00:1:2:3::{n:x}/64 dev eth0 nodad" for n in range(33, 53)),
    "addr add 2a00:1:2:3::100/64 dev eth0 nodad",
]


@pytest.fixture
def hosts() -> Iterator[tuple[Holder, Holder, Holder]]:
    """A relay, and two hosts that reach it, and each other only through it."""
    require_root()
    require_tool("ip", "iproute2")
    with namespaces(3) as (relay, one, other):
        for n, host in ((1, one), (2, other)):
            relay.ip(f"link add host{n} type veth peer name eth0 netns {host.path.split('/')[2]}")
            relay.ip(f"addr add 10.0.{n}.1/24 dev host{n}", f"link set host{n} up")
            host.ip(
                "link set eth0 up",
                f"addr add 10.0.{n}.2/24 dev eth0",
                f"route add default via 10.0.{n}.1",
            )
        yield relay, one, other


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_NAT__PORT_MAPPING__ENABLED", "false")
    monkeypatch.setenv("LATTICA_DATA_DIR", str(tmp_path / "data"))


@pytest.mark.parametrize("lines", [BRIDGES, IPV6], ids=["bridges", "ipv6"])
def test_a_ticket_has_the_relays_address_and_the_fetch_works(hosts, lines, tmp_path: Path):
    relay, publisher, fetcher = hosts
    publisher.ip(*lines)
    file, key = tmp_path / "file", tmp_path / "relay.key"
    file.write_bytes(bytes(range(256)) * 4096)
    relay_id = Identity.load_or_create(key).peer_id
    addr = f"/ip4/10.0.1.1/tcp/4001/p2p/{relay_id}"
    serve = (*MAIN, "--identity", str(key), "relay", "--open", "--json")
    publish = (*MAIN, "publish", str(file), "--ephemeral", "--json", "--relay", addr)
    with (
        relay.start(*serve, "--listen", "/ip4/0.0.0.0/tcp/4001"),
        publisher.start(*publish) as publishing,
    ):
        said = publishing.first
        assert said["addrs"][0] == f"{addr}/p2p-circuit"
        assert any(addr.startswith("/ip4/10.0.1.2/tcp/") for addr in said["addrs"])
        assert Ticket.parse(said["ticket"]).addrs[0] == Multiaddr(said["addrs"][0])
        fetcher.run(*MAIN, "fetch", said["ticket"], "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "file").read_bytes() == file.read_bytes()


def test_of_how_much_use_each_address_is(hosts):
    _, host, _ = hosts
    host.ip(
        *BRIDGES[:3],
        *IPV6[-2:],
        "addr add 2a00:1:2:3::1/64 dev eth0 nodad preferred_lft 0",
        "link add veth0 type veth peer name veth1",
        "addr add 10.7.0.1/24 dev veth0",
    )
    told = json.loads(host.run("-c", LOOK))
    found = {ip: (use, is_default) for _, ip, use, is_default in told}
    assert found["10.0.1.2"] == ("OPEN", True)
    assert found["2a00:1:2:3::100"] == ("OPEN", False)
    assert found["2a00:1:2:3::1"] == ("PASSING", False)
    assert found["172.17.0.1"][0] in ("CONFINED", "DOWN")  # kernels differ on empty bridges
    assert found["10.7.0.1"] == ("DOWN", False)
    # As with a container on the bridge: it is up, but leads nowhere else.
    host.ip("link set veth0 master br0 up", "link set veth1 up")
    for _ in range(100):
        told = json.loads(host.run("-c", LOOK))
        if ["br0", "172.17.0.1", "DOWN", False] not in told:  # a bridge takes a moment
            break
    assert ["br0", "172.17.0.1", "CONFINED", False] in told
