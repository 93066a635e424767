"""UDP hole punching through a relay, between hosts behind real NATs at 50 ms round trip."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Event, Running
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import INTERNET, Host, Link, Router

PROGRAMS = str(Path(__file__).with_name("ice_programs.py"))
_HALF_WAY = LinkSpec(delay_s=0.0125)
LINE = Link(_HALF_WAY, _HALF_WAY)
"""Two of these in a row, there and back: 50 ms."""
AT_A_TIME = 5
ENOUGH_S = 240
"""For one pair, on a machine that has much else to do."""

DIRECT = [
    ("port-restricted", "port-restricted"),
    ("port-restricted-random", "port-restricted-random"),
    ("restricted-cone", "symmetric-random"),
    ("symmetric-random", "restricted-cone"),
    ("cgnat", "symmetric-random"),
    ("cgnat", "cgnat"),
    ("linux-masquerade", "linux-masquerade"),
    ("firewall", "port-restricted"),
    (None, "symmetric-random"),
]
NEIGHBOURS = ["port-restricted", "symmetric-random"]
HOPELESS = [
    ("symmetric-random", "symmetric-random"),
    ("udp-blocked", "full-cone"),
]

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Outcome:
    """target: what the side that punches says. caller: the last word of the side that called."""

    target: Event
    caller: Event
    caller_ip: str


class Pairs:
    """All pairs of hosts of one scenario, by name."""

    def __init__(self) -> None:
        self.hosts: list[Host] = [Host("relay", link=LINE)]
        self.routers: list[Router] = []
        self.names: list[str] = []
        for number, nats in enumerate([*DIRECT, *HOPELESS]):
            name = "-to-".join(nat or "open" for nat in nats)
            sides = zip("ab", nats, strict=True)
            self._add(name, *(self._home(f"{side}-{number}", nat) for side, nat in sides))
        for nat in NEIGHBOURS:
            home = self._home(f"home-{nat}", nat)
            self._add(f"behind-{nat}", home, home)

    def _home(self, name: str, nat: str | None) -> str:
        if nat is None:
            return INTERNET
        self.routers.append(Router(name, nat=NAMES[nat], link=LINE))
        return name

    def _add(self, name: str, *homes: str) -> None:
        number = len(self.names)
        self.names.append(name)
        for side, home in zip(("caller", "target"), homes, strict=True):
            link = LINE if home == INTERNET else Link()
            self.hosts.append(Host(f"{side}-{number}", behind=home, link=link))

    @property
    def scenario(self) -> Scenario:
        return Scenario("udp-punch", hosts=tuple(self.hosts), routers=tuple(self.routers))


def program(*arguments: str) -> list[str]:
    return [sys.executable, PROGRAMS, *arguments]


async def said(running: Running, *names: str) -> Event:
    _, event = await running.wait_event(lambda event: event.get("event") in names)
    return event


async def punch(lab: Lab, relay: str, caller: str, target: str) -> Outcome:
    """Connect `caller` to `target` over the relay, and see what comes of it."""
    with trio.fail_after(ENOUGH_S):
        running = await lab.start(target, program("target", relay), name=target)
        peer = (await said(running, "ready"))["peer"]
        calling = await lab.start(caller, program("caller", relay, peer), name=caller)
        end = await said(calling, "end")
        told = await said(running, "direct", "failed")
        await calling.stop()
        await running.stop()
    return Outcome(told, end, lab.ip(caller))


async def punch_all() -> dict[str, Outcome]:
    pairs, found = Pairs(), dict[str, Outcome]()
    limit = trio.Semaphore(AT_A_TIME)
    async with open_lab(pairs.scenario) as lab, trio.open_nursery() as nursery:
        argv = program("relay", lab.public_ip("relay"))
        relay = (await said(await lab.start("relay", argv, name="relay"), "ready"))["addr"]

        async def run(number: int, name: str) -> None:
            async with limit:
                found[name] = await punch(lab, relay, f"caller-{number}", f"target-{number}")

        for number, name in enumerate(pairs.names):
            nursery.start_soon(run, number, name)
    return found


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    require_root()
    found = trio.run(punch_all)
    for name, outcome in found.items():
        took, path = outcome.target["took"], outcome.target.get("path")
        print(f"{name}: {path} after {took:.2f} s")
    return found


@pytest.mark.parametrize(("nat_a", "nat_b"), DIRECT)
def test_a_hole_is_punched(
    outcomes: dict[str, Outcome], nat_a: str | None, nat_b: str | None
) -> None:
    outcome = outcomes[f"{nat_a or 'open'}-to-{nat_b or 'open'}"]
    assert outcome.target["event"] == "direct", outcome
    assert outcome.target["path"] == outcome.caller["path"] == "direct-quic"


@pytest.mark.parametrize("nat", NEIGHBOURS)
def test_neighbours_find_each_other_on_their_own_network(
    outcomes: dict[str, Outcome], nat: str
) -> None:
    outcome = outcomes[f"behind-{nat}"]
    assert outcome.target["event"] == "direct", outcome
    assert outcome.target["addr"].startswith(f"/ip4/{outcome.caller_ip}/udp/4001/")
    assert outcome.caller["path"] == "direct-quic"


@pytest.mark.parametrize(("nat_a", "nat_b"), HOPELESS)
def test_hopeless_pairs_stay_relayed_and_say_so(
    outcomes: dict[str, Outcome], nat_a: str, nat_b: str
) -> None:
    outcome = outcomes[f"{nat_a}-to-{nat_b}"]
    assert outcome.target["event"] == "failed"
    assert "UDP" in outcome.target["reason"]
    assert outcome.caller["path"] is None
