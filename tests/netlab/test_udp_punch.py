"""UDP hole punching through a relay, between hosts behind real NATs at 50 ms round trip."""

from __future__ import annotations

import json
import sys

import pytest
import trio

from tests.netlab.holders import require_root
from tests.netlab.labs import PROJECT
from tools.netlab.lab import Lab, open_lab
from tools.netlab.link_spec import LinkSpec
from tools.netlab.model import Scenario
from tools.netlab.nat_spec import NAMES
from tools.netlab.programs import Event, Running
from tools.netlab.topology import Host, Link, Router

PROGRAMS = str(PROJECT / "tests" / "netlab" / "ice_programs.py")
_HALF_WAY = LinkSpec(delay_s=0.0125)
LINE = Link(_HALF_WAY, _HALF_WAY)
"""Two of these in a row, there and back: 50 ms."""
ENOUGH_S = 90
"""On a machine that has much else to do."""

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def program(*arguments: str) -> list[str]:
    return [sys.executable, PROGRAMS, *arguments]


def scenario(nat_a: str | None, nat_b: str | None) -> Scenario:
    """Two homes and a relay; with one and the same NAT twice use :func:`one_home`."""
    nats = {"home-a": nat_a, "home-b": nat_b}
    routers = tuple(
        Router(name, nat=NAMES[nat], link=LINE) for name, nat in nats.items() if nat is not None
    )
    hosts = tuple(
        Host(host, behind=home) if nats[home] is not None else Host(host, link=LINE)
        for host, home in (("a", "home-a"), ("b", "home-b"))
    )
    return Scenario("udp-punch", hosts=(*hosts, Host("relay", link=LINE)), routers=routers)


def one_home(nat: str) -> Scenario:
    hosts = (Host("a", behind="home"), Host("b", behind="home"), Host("relay", link=LINE))
    return Scenario("udp-punch", hosts=hosts, routers=(Router("home", nat=NAMES[nat], link=LINE),))


async def _said(running: Running, *names: str) -> Event:
    _, event = await running.wait_event(lambda event: event.get("event") in names)
    return event


async def punch(lab: Lab) -> tuple[Event, Event]:
    """Connect `a` to `b` over the relay; what `b`, which punches, and `a` have to say."""
    with trio.fail_after(ENOUGH_S):
        running = await lab.start("relay", program("relay", lab.public_ip("relay")), name="relay")
        relay = (await _said(running, "ready"))["addr"]
        target = await lab.start("b", program("target", relay), name="target")
        peer = (await _said(target, "ready"))["peer"]
        status, out, errors = await lab.run("a", program("caller", relay, peer))
        assert status == 0, errors.decode()
        told = await _said(target, "direct", "failed")
    print(json.dumps({"target": told, "caller": [json.loads(line) for line in out.splitlines()]}))
    return told, json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("nat_a", "nat_b"),
    [
        ("port-restricted", "port-restricted"),
        ("port-restricted-random", "port-restricted-random"),
        ("port-restricted-random", "port-restricted"),
        ("restricted-cone", "symmetric-random"),
        ("symmetric-random", "restricted-cone"),
        ("cgnat", "symmetric-random"),
        ("cgnat", "cgnat"),
        ("linux-masquerade", "linux-masquerade"),
        ("firewall", "port-restricted"),
        (None, "symmetric-random"),
    ],
)
async def test_a_hole_is_punched(nat_a: str | None, nat_b: str | None) -> None:
    async with open_lab(scenario(nat_a, nat_b)) as lab:
        target, caller = await punch(lab)
    assert target["event"] == "direct", target
    assert target["path"] == caller["path"] == "direct-quic"


@pytest.mark.parametrize("nat", ["port-restricted", "symmetric-random"])
async def test_neighbours_find_each_other_on_their_own_network(nat: str) -> None:
    async with open_lab(one_home(nat)) as lab:
        inside = lab.ip("a")
        target, caller = await punch(lab)
    assert target["event"] == "direct", target
    assert target["addr"].startswith(f"/ip4/{inside}/udp/4001/")
    assert caller["path"] == "direct-quic"


async def test_two_symmetric_nats_stay_relayed_and_say_so() -> None:
    async with open_lab(scenario("symmetric-random", "symmetric-random")) as lab:
        target, caller = await punch(lab)
    assert target["event"] == "failed"
    assert "no answer over UDP" in target["reason"]
    assert caller["path"] is None
