"""A service behind one NAT, used from behind another: real commands, real HTTP."""

from __future__ import annotations

import shlex
import sys

import pytest
import trio

from tests.netlab.holders import require_root
from tests.netlab.labs import ENOUGH_S, said, start_relay
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import LATTICA
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

pytestmark = pytest.mark.root

LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/4002", "--listen", "/ip4/0.0.0.0/udp/4002/quic-v1/noise")
GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=120).read().decode(), end="")
"""


def homes(nat: str) -> Scenario:
    return Scenario(
        "ports",
        hosts=(Host("relay"), Host("alice", behind="home-a"), Host("bob", behind="home-b")),
        routers=tuple(Router(name, nat=NAMES[nat]) for name in ("home-a", "home-b")),
    )


async def get(lab: Lab, url: str) -> str:
    code, out, err = await lab.run("bob", [sys.executable, "-c", GET, url])
    assert code == 0, err
    return out.decode()


async def used_across_nats(nat: str, direct: bool) -> None:
    async with open_lab(homes(nat)) as lab:
        relay_addr = await start_relay(lab)

        site = lab.folder / "site"
        site.mkdir()
        (site / "page").write_text("hello")
        web = [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1", "-d", str(site)]
        await lab.start("alice", web, name="web")
        expose = [*LATTICA, "expose", "web=8000", "--json", *LISTEN, "--relay", relay_addr]
        exposing = await lab.start("alice", expose, name="expose")
        command = shlex.split((await said(exposing, "ready"))["command"])
        assert "p2p-circuit" in command[2]
        more = ["--local", "9000", "--json", *LISTEN, "--relay", relay_addr]
        forwarding = await lab.start("bob", [*LATTICA, *command[1:], *more], name="forward")
        await said(forwarding, "ready")

        url = "http://127.0.0.1:9000/page"
        seen = 0

        async def path() -> str:
            nonlocal seen
            assert await get(lab, url) == "hello"
            closed = await said(forwarding, "connection_closed", seen)
            seen = forwarding.events.index(closed) + 1
            assert closed["bytes_from_peer"] > 5
            return str(closed["path"])

        first = await path()
        with trio.fail_after(ENOUGH_S):
            while direct and first == "relayed" and await path() == "relayed":
                await trio.sleep(1)
        assert direct or first == "relayed"

        await exposing.stop(grace_s=0)
        again = await lab.start("alice", expose, name="expose")
        assert shlex.split((await said(again, "ready"))["command"])[-1] == command[-1]
        await path()  # by the forward that has been there all the time


@pytest.mark.parametrize(
    ("nat", "direct"), [("port-restricted", True), ("symmetric-random", False)]
)
def test_a_service_across_nats(nat: str, direct: bool) -> None:
    require_root()
    trio.run(used_across_nats, nat, direct)
