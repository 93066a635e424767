"""The birthday method between real NATs, over a relay, at 50 ms round trip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Event, Running
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Router

PROGRAM = str(Path(__file__).with_name("birthday_program.py"))
_HALF_WAY = LinkSpec(delay_s=0.0125)
LINE = Link(_HALF_WAY, _HALF_WAY)
PORT_FILTERING = "address-and-port-dependent"
HARD = (PORT_FILTERING, PORT_FILTERING)
EASY = ("endpoint-independent", PORT_FILTERING)
SOMEWHERE = 40_000
"""A port that a STUN responder might have seen."""
ENOUGH_S = 300
"""On a machine that has much else to do."""
A_FEW = 16
"""Files that a connection may have open; a run has 256 more."""

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def program(*arguments: object) -> list[str]:
    return [sys.executable, PROGRAM, *map(str, arguments)]


async def said(running: Running, *names: str) -> Event:
    _, event = await running.wait_event(lambda event: event.get("event") in names)
    return event


async def meet(lab: Lab, roles: dict[str, tuple[str, str]]) -> Event:
    """Let `target` and `source` meet; what the target, which makes the attempt, says."""
    with trio.fail_after(ENOUGH_S):
        argv = program("relay", lab.public_ip("relay"))
        relay = (await said(await lab.start("relay", argv, name="relay"), "ready"))["addr"]

        def known(host: str) -> tuple[object, ...]:
            port = 4001 if roles[host] == EASY else SOMEWHERE
            return (relay, *roles[host], lab.public_ip(host), port)

        target = await lab.start("target", program("target", *known("target")), name="target")
        peer = (await said(target, "ready"))["peer"]
        source = await lab.start("source", program("source", *known("source"), peer), name="source")
        told = await said(target, "direct", "failed")
        print(json.dumps(told), target.stderr(), source.stderr())
        if told["event"] == "direct":
            assert (await said(source, "pinged"))["path"] == "direct-quic"
    return told


def scenario(nat_target: str, nat_source: str) -> Scenario:
    return Scenario(
        "birthday",
        hosts=(
            Host("target", behind="home-t"),
            Host("source", behind="home-s"),
            Host("relay", link=LINE),
        ),
        routers=(
            Router("home-t", nat=NAMES[nat_target], link=LINE),
            Router("home-s", nat=NAMES[nat_source], link=LINE),
        ),
    )


@pytest.mark.parametrize("hard", ["symmetric-random", "symmetric-sequential", "linux-masquerade"])
@pytest.mark.parametrize("asks", ["hard", "easy"])
async def test_the_hard_side_is_met(hard: str, asks: str) -> None:
    if asks == "hard":
        lab_scenario, roles = scenario(hard, "port-restricted"), {"target": HARD, "source": EASY}
    else:
        lab_scenario, roles = scenario("port-restricted", hard), {"target": EASY, "source": HARD}
    async with open_lab(lab_scenario) as lab:
        told = await meet(lab, roles)
    assert told["event"] == "direct", told
    assert told["path"] == "direct-quic"
    assert told["files"] < A_FEW


async def test_a_firewall_that_filters_by_port_is_an_easy_side() -> None:
    async with open_lab(scenario("symmetric-random", "firewall")) as lab:
        told = await meet(lab, {"target": HARD, "source": EASY})
    assert told["event"] == "direct", told


async def test_two_hard_sides_are_told_that_only_a_relay_works() -> None:
    async with open_lab(scenario("symmetric-random", "symmetric-random")) as lab:
        told = await meet(lab, {"target": HARD, "source": HARD})
    assert told["event"] == "failed"
    assert "both sides are behind endpoint-dependent NATs" in told["reason"]
    assert told["files"] < A_FEW
