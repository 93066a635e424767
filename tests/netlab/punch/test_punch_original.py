"""The original lattica 1.0.21 (rust-libp2p) and ours become direct by DCUtR, over our relay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.interop import partners
from tests.netlab.holders import require_root
from tests.netlab.punch.test_tcp_punch import LISTEN, event, homes, program
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Running
from tools.netlab.spec.nat import NAMES

pytestmark = pytest.mark.foreign

ORIGINAL = str(Path(__file__).with_name("original_program.py"))


@pytest.fixture
def original() -> list[str]:
    """The command that runs the original, but for what it is to do."""
    require_root()
    return [str(partners.require("original") / "venv/bin/python"), ORIGINAL]


@asynccontextmanager
async def lab_with_relay(left: str, right: str) -> AsyncIterator[tuple[Lab, Running, str]]:
    """Alice is behind `left`, Bob behind `right`; and our relay and its address."""
    async with open_lab(homes(NAMES[left], NAMES[right])) as lab:
        relay = await lab.start("relay", program("relay", LISTEN), name="relay")
        relay_id = (await event(relay, "ready"))["id"]
        yield lab, relay, f"/ip4/{lab.public_ip('relay')}/tcp/4001/p2p/{relay_id}"


async def start_original(lab: Lab, argv: list[str], *arguments: str) -> Running:
    folder = lab.folder / "its-files"
    folder.mkdir()
    relay, *dial = arguments
    env = {"RUST_LOG": "lattica=debug,libp2p_dcutr=trace,libp2p_swarm=debug"}
    return await lab.start(
        "alice", [*argv, str(folder), relay, "4001", *dial], name="original", env=env
    )


def words(*running: Running) -> str:
    logs = [f"--- {one.name}\n{one.stderr()[-6000:]}\n{one.events[-3:]}" for one in running]
    return "\n".join(logs)


# NATs that keep ports, as the original often names a port that it does not listen on: its dial to
# the relay overtakes its listener. Ours guesses the right one.
PAIRS = [
    ("port-restricted", "port-restricted"),
    ("full-cone", "restricted-cone"),
    ("linux-masquerade", "linux-masquerade"),
    ("port-restricted", "one-to-one"),
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
async def test_the_original_begins(original, theirs, ours):
    """It has reserved, we come: it is the initiator of DCUtR, and so the server afterwards."""
    async with lab_with_relay(theirs, ours) as (lab, relay, address):
        running = await start_original(lab, original, address)
        goal = (await event(running, "ready"))["id"]
        await event(relay, "ReservationMade")
        bob = await lab.start("bob", program("source", address, goal, LISTEN), name="bob")
        try:
            news = await event(bob, "direct", "failed")
            await event(bob, "pinged")
        except trio.TooSlowError:
            pytest.fail(words(running, bob))
        assert news["path"] == "direct-tcp"
        print(f"direct after {news['seconds']:.3f} s")


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
async def test_we_begin(original, theirs, ours):
    """We have reserved, it comes."""
    async with lab_with_relay(theirs, ours) as (lab, _, address):
        bob = await lab.start("bob", program("target", address, LISTEN), name="bob")
        goal = (await event(bob, "ready"))["id"]
        through = f"{address}/p2p-circuit/p2p/{goal}"
        running = await start_original(lab, original, address, through)
        try:
            news = await event(bob, "direct", "failed")
        except trio.TooSlowError:
            pytest.fail(words(running, bob))
        assert news["event"] == "direct", words(running, bob)
        assert news["path"] == "direct-tcp"
        print(f"direct after {news['seconds']:.3f} s")
