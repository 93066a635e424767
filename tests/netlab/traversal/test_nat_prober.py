"""The node finds out what each named type of NAT does, from two relays with two ports each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.topology import Host, Router

PROGRAMS = str(Path(__file__).with_name("stun_programs.py"))
RELAYS = ("relay-one", "relay-two")
PORTS = (4001, 4002)
AT_A_TIME = 4


def program(*arguments: object) -> list[str]:
    return [sys.executable, PROGRAMS, *map(str, arguments)]


def scenario(routers: Sequence[Router]) -> Scenario:
    hosts = [Host(f"host-{router.name}", behind=router.name) for router in routers]
    hosts += [Host(relay) for relay in RELAYS]
    return Scenario("prober", hosts=tuple(hosts), routers=tuple(routers))


async def start_relays(lab: Lab) -> list[str]:
    """Start both; their responders, port by port."""
    for relay in RELAYS:
        argv = program("respond", lab.public_ip(relay), *PORTS)
        running = await lab.start(relay, argv, name=relay)
        with trio.fail_after(120):
            await running.wait_event(lambda event: event.get("event") == "ready")
    return [f"{lab.public_ip(relay)}:{port}" for port in PORTS for relay in RELAYS]


async def run(lab: Lab, host: str, *arguments: object) -> dict[str, Any]:
    status, out, errors = await lab.run(host, program(*arguments))
    assert status == 0, errors.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def probe_each(routers: Sequence[Router]) -> dict[str, tuple[dict[str, Any], str]]:
    """The report from behind each router, and the router's address outside."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    limit = trio.Semaphore(AT_A_TIME)

    async with open_lab(scenario(routers)) as lab:
        responders = await start_relays(lab)

        async def probe(router: Router) -> None:
            host = f"host-{router.name}"
            async with limit:
                report = await run(lab, host, "probe", *responders)
            found[router.name] = report, lab.public_ip(host)

        async with trio.open_nursery() as nursery:
            for router in routers:
                nursery.start_soon(probe, router)
    return found


@pytest.fixture(scope="module")
def reports() -> dict[str, tuple[dict[str, Any], str]]:
    require_root()
    return trio.run(probe_each, [Router(name, nat=spec) for name, spec in NAMES.items()])


def expected(spec: NatSpec) -> dict[str, Any]:
    """What the report must say.

    Overloaded ports look endpoint-independent to the only host behind the NAT. Whether a NAT
    has a hairpin cannot be told where nobody knows the port outside.
    """
    if spec.blocked in ("udp", "all-but-tcp-443"):
        return {"udp_works": False, "mapping": None, "filtering": None, "mapped": []}
    mapping = "endpoint-independent" if spec.overload else spec.mapping
    translated = spec.translate != "none"
    knows_hairpin = translated and mapping == "endpoint-independent"
    return {
        "udp_works": True,
        "mapping": mapping,
        "filtering": spec.filtering,
        "is_translated": translated,
        "preserves_port": spec.port == "preserving",
        "hairpin": spec.hairpin if knows_hairpin else None,
    }


@pytest.mark.root
@pytest.mark.parametrize("name", NAMES)
def test_named_types(reports: dict[str, tuple[dict[str, Any], str]], name: str) -> None:
    report, public = reports[name]
    wanted = expected(NAMES[name])
    assert {key: report[key] for key in wanted} == wanted
    assert {host for host, _ in report["mapped"]} <= {public}
    friendly = wanted["mapping"] == "endpoint-independent" and wanted["is_translated"]
    assert len(report["observed"]) == (1 if friendly else 0)
    if friendly:
        ((host, port),) = report["mapped"]
        assert report["observed"] == [f"/ip4/{host}/udp/{port}/quic-v1/noise"]


@pytest.mark.root
async def test_how_long_a_mapping_lives() -> None:
    require_root()
    nat = replace(NAMES["port-restricted"], udp_timeout_s=7.0)
    async with open_lab(scenario([Router("home", nat=nat)])) as lab:
        (responder, *_) = await start_relays(lab)
        idle_times = (1.0, 3.0, 12.0, 30.0)
        found = await run(lab, "host-home", "lifetime", responder, 30, 5, *idle_times)
    assert found == {"event": "lifetime", "alive_s": 3.0, "dead_s": 7.5}
