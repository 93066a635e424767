"""TCP hole punching through real NATs: what is relayed becomes direct where theory allows it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Event, Running
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.topology import Host, Link, Router

PROGRAM = str(Path(__file__).with_name("punch_program.py"))
LISTEN = "/ip4/0.0.0.0/tcp/4001"
LINE = Link(LinkSpec(delay_s=0.012), LinkSpec(delay_s=0.012))
"""50 ms from home to home and back."""
PATIENCE = 120.0


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def homes(left: NatSpec, right: NatSpec | None, link: Link = LINE) -> Scenario:
    """A relay and two hosts, each behind a router; with `right` None both behind one."""
    routers = [Router("left", nat=left, link=link)]
    if right is not None:
        routers.append(Router("right", nat=right, link=link))
    return Scenario(
        "punch",
        hosts=(
            Host("relay"),
            Host("alice", behind="left"),
            Host("bob", behind=routers[-1].name),
        ),
        routers=tuple(routers),
    )


def program(*arguments: str) -> list[str]:
    return [sys.executable, PROGRAM, *arguments]


async def event(running: Running, *names: str) -> Event:
    """The first event of one of these names."""
    with trio.fail_after(PATIENCE):
        _, found = await running.wait_event(lambda event: event["event"] in names)
    return found


@asynccontextmanager
async def two_peers(scenario: Scenario, way: str) -> AsyncIterator[tuple[Lab, Running, Running]]:
    """Alice, who is reached through the relay, and Bob, who has just reached her."""
    async with open_lab(scenario) as lab:
        relay = await lab.start("relay", program("relay", LISTEN), name="relay")
        relay_id = (await event(relay, "ready"))["id"]
        through = f"/ip4/{lab.public_ip('relay')}/tcp/4001/p2p/{relay_id}"
        env = {"WAY": way}
        alice = await lab.start("alice", program("target", through, LISTEN), name="alice", env=env)
        alice_id = (await event(alice, "ready"))["id"]
        argv = program("source", through, alice_id, LISTEN)
        bob = await lab.start("bob", argv, name="bob", env=env)
        await event(bob, "relayed")
        yield lab, alice, bob


async def becomes_direct(scenario: Scenario, way: str = "tcp-punch") -> Event:
    """Alice's news of it."""
    async with two_peers(scenario, way) as (_, alice, bob):
        news = await event(alice, "direct", "failed")
        assert news["event"] == "direct", f"{news}\n{alice.stderr()}\n---\n{bob.stderr()}"
        assert (await event(bob, "direct"))["path"] == "direct-tcp"
        await event(bob, "pinged")
        print(f"direct after {news['seconds']:.3f} s")
        return news


PAIRS = [
    ("port-restricted", "port-restricted"),
    ("restricted-cone", "restricted-cone"),
    ("full-cone", "full-cone"),
    ("port-restricted-random", "port-restricted-random"),
    ("linux-masquerade", "linux-masquerade"),
    ("port-restricted", "full-cone"),
    ("cgnat", "port-restricted-random"),
    ("udp-blocked", "port-restricted"),
    ("firewall", "port-restricted"),
    # Only one side's port can be known, and the other lets in what comes from the right host.
    ("symmetric-random", "restricted-cone"),
    ("restricted-cone", "symmetric-random"),
]


@pytest.mark.parametrize(("left", "right"), PAIRS)
async def test_pairs_that_can(left, right):
    news = await becomes_direct(homes(NAMES[left], NAMES[right]))
    assert news["path"] == "direct-tcp"


@pytest.mark.parametrize("refusal", ["reset", "icmp"])
async def test_nats_that_refuse_what_comes_too_early(refusal):
    nat = NatSpec(refuse_tcp=refusal)
    await becomes_direct(homes(nat, nat))


async def test_a_lossy_line():
    spec = LinkSpec(delay_s=0.02, loss=0.05)
    await becomes_direct(
        homes(NAMES["port-restricted"], NAMES["port-restricted"], Link(spec, spec))
    )


@pytest.mark.parametrize("way", ["tcp-punch", "direct"])
async def test_two_hosts_behind_one_nat_find_each_other(way):
    news = await becomes_direct(homes(NAMES["port-restricted"], None), way)
    assert news["addr"].startswith("/ip4/192.168.")


async def test_reversal():
    """Alice can be reached from outside by now; Bob dials her when she asks for it."""
    news = await becomes_direct(homes(NAMES["one-to-one"], NAMES["symmetric-random"]), "direct")
    assert news["direction"] == "inbound"


async def test_two_symmetric_nats_stay_relayed_and_say_so():
    scenario = homes(NAMES["symmetric-random"], NAMES["symmetric-random"])
    async with two_peers(scenario, "tcp-punch") as (_, alice, bob):
        assert (await event(alice, "direct", "failed"))["event"] == "failed"
        assert not any(said["event"] == "pinged" for said in bob.events)
