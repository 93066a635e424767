"""The DHT and topics between two nodes that only a relay connects: both NATs are symmetric."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import require_root
from tests.netlab.labs import said, start_relay
from tools.netlab.lab.lab import open_lab
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

pytestmark = pytest.mark.root

PROGRAM = Path(__file__).with_name("discovery_program.py")
NAT = NAMES["symmetric-random"]
PLAN = Scenario(
    "discovery",
    hosts=(Host("relay"), Host("alice", behind="home-a"), Host("bob", behind="home-b")),
    routers=(Router("home-a", nat=NAT), Router("home-b", nat=NAT)),
)


async def found_over_the_relay() -> None:
    async with open_lab(PLAN) as lab:
        at = await start_relay(lab)
        program = [sys.executable, str(PROGRAM)]
        alice = await lab.start("alice", [*program, "serve", at], name="alice")
        peer = (await said(alice, "ready"))["peer"]
        bob = await lab.start("bob", [*program, "find", at], name="bob")
        found = {**await said(bob, "found")}
        del found["t"]
        assert found == {
            "event": "found",
            "peer": peer,
            "load": {"queue": 3},
            "path": "relayed",
            "answer": "answer",
            "answered_by": peer,
        }
        assert (await said(alice, "heard"))["data"] == "question"


def test_values_providers_peers_and_topics_over_a_relay() -> None:
    require_root()
    trio.run(found_over_the_relay)
