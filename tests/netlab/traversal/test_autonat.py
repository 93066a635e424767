"""AutoNAT v2 behind real NATs: reachable is what strangers reach, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

PROGRAM = str(Path(__file__).with_name("autonat_program.py"))
OPEN = "one-to-one"
NATS = ("full-cone", "port-restricted", "linux-masquerade", "firewall", OPEN)
"""Named types of NAT, with a host behind each."""
AT_A_TIME = 3


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def program(*arguments: object) -> list[str]:
    return [sys.executable, PROGRAM, *map(str, arguments)]


async def start_server(lab: Lab, node: str, *dial_back_ips: str) -> list[str]:
    """Start a server; its addresses."""
    argv = program("serve", lab.ip(node), *dial_back_ips)
    running = await lab.start(node, argv, name=f"serve-{node}")
    with trio.fail_after(120):
        _, ready = await running.wait_event(lambda event: event.get("event") == "ready")
    addrs: list[str] = ready["addrs"]
    return addrs


async def check(
    lab: Lab, node: str, servers: Sequence[str], command: str = "check"
) -> dict[str, Any]:
    """What a node finds out about each of its addresses: reachability and how many agree."""
    status, out, errors = await lab.run(node, program(command, *servers))
    assert status == 0, errors.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    (results,) = [line["results"] for line in lines if line["event"] == "results"]
    found: dict[str, Any] = results
    return found


def scenario(nats: Sequence[str], *more: Host) -> Scenario:
    routers = tuple(Router(name, nat=NAMES[name]) for name in nats)
    hosts = (Host(f"host-{name}", behind=name) for name in nats)
    return Scenario("autonat", hosts=(*hosts, *more), routers=routers)


async def test_two_servers_and_every_kind_of_filter() -> None:
    public, *hosts = "public", *(f"host-{name}" for name in NATS)
    found: dict[str, dict[str, Any]] = {}
    seen_at: dict[str, str] = {}
    relays = ("relay-one", "relay-two")
    plan = scenario(NATS, Host(public), *map(Host, relays))
    async with open_lab(plan) as lab:
        servers = [addr for relay in relays for addr in await start_server(lab, relay)]
        limit = trio.Semaphore(AT_A_TIME)

        async def look(host: str) -> None:
            async with limit:
                found[host] = await check(lab, host, servers)
            seen_at[host] = lab.public_ip(host)

        async with trio.open_nursery() as nursery:
            for host in (public, *hosts):
                nursery.start_soon(look, host)
    for host, results in found.items():
        addrs = list(results)
        # One for TCP and one for QUIC, at the address that the servers see.
        assert [addr.split("/")[2:4] for addr in addrs] == [
            [seen_at[host], "tcp"],
            [seen_at[host], "udp"],
        ], host
        expected = host in (public, "host-full-cone", f"host-{OPEN}")
        verdict = ["reachable" if expected else "unreachable", 2]
        assert set(map(tuple, results.values())) == {tuple(verdict)}, (host, results)


async def test_a_filter_by_address_needs_a_server_with_two_addresses() -> None:
    nat = "restricted-cone"
    async with open_lab(scenario([nat], Host("relay", addresses=2))) as lab:
        second = lab.plan.nodes["relay"].uplinks[0].addresses[1].partition("/")[0]
        servers = await start_server(lab, "relay", lab.ip("relay"), second)
        results = await check(lab, f"host-{nat}", servers)
    assert len(results) == 2
    assert set(map(tuple, results.values())) == {("unreachable", 1)}
