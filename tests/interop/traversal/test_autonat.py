"""AutoNAT v2 with js-libp2p in both roles, and with the original lattica (rust-libp2p) as client.

In a lab, as root: they dial public addresses only, and not their own. (The go daemon at hand
speaks AutoNAT v1 alone.)
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from lattica.nat.base.keys.identity import Identity
from tests.interop.partners import SCRIPTS, js_command
from tests.netlab.holders import require_root
from tests.netlab.traversal.test_autonat import check, program
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import Running
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

pytestmark = pytest.mark.foreign

PORT = 4001
PATIENCE = 120.0
FIREWALL = "firewall"
SCENARIO = Scenario(
    "autonat",
    hosts=(Host("ours"), Host("theirs"), Host("walled", behind=FIREWALL)),
    routers=(Router(FIREWALL, nat=NAMES[FIREWALL]),),
)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def ready(running: Running) -> dict[str, object]:
    with trio.fail_after(PATIENCE):
        _, event = await running.wait_event(lambda event: event.get("event") == "ready")
    return event


async def start_js(lab: Lab, installed: Path, node: str, *dial: str) -> Running:
    argv = js_command(installed, "autonat.mjs")
    argv += ["--listen", f"/ip4/{lab.ip(node)}/tcp/{PORT}"]
    for addr in dial:
        argv += ["--dial", addr]
    return await lab.start(node, argv, name=f"js-{node}", env={"DEBUG": "libp2p:auto-nat-v2*"})


async def start_ours(lab: Lab, *command: str) -> tuple[Running, str]:
    """Our server, and its TCP address."""
    argv = program(*(command or ("serve",)), lab.ip("ours"))
    running = await lab.start("ours", argv, name="ours")
    addrs = (await ready(running))["addrs"]
    assert isinstance(addrs, list)
    return running, next(str(addr) for addr in addrs if "/tcp/" in addr)


async def test_js_is_our_server(js_installed: Path) -> None:
    async with open_lab(SCENARIO) as lab:
        server = await start_js(lab, js_installed, "theirs")
        # It does not name its address before somebody has checked that.
        addr = f"/ip4/{lab.ip('theirs')}/tcp/{PORT}/p2p/{(await ready(server))['peer_id']}"
        nodes = ("ours", "walled")
        found = {node: await check(lab, node, [addr], "check-own-tcp") for node in nodes}
        ips = {node: lab.ip(node) for node in found}
    for node, verdict in (("ours", "reachable"), ("walled", "unreachable")):
        assert found[node] == {f"/ip4/{ips[node]}/tcp/{PORT}": [verdict, 1]}, node


async def test_js_asks_our_server(js_installed: Path) -> None:
    async with open_lab(SCENARIO) as lab:
        server, addr = await start_ours(lab)
        for node, status in (("theirs", "OK"), ("walled", "E_DIAL_ERROR")):
            client = await start_js(lab, js_installed, node, addr)
            peer = (await ready(client))["peer_id"]
            asked = f"/ip4/{lab.ip(node)}/tcp/{PORT}"
            said = f"autonat dialed back: {status} addr={asked}"
            assert await server.wait_stderr(said, PATIENCE), (client.stderr(), server.stderr())
            assert f"peer={peer}" in server.stderr()


async def start_original(lab: Lab, installed: Path, *dial: str) -> tuple[Running, str]:
    """The original, and where it listens."""
    home = lab.folder / "original"
    home.mkdir()
    argv = [str(installed / "venv/bin/python"), str(SCRIPTS / "original_autonat.py")]
    argv += [str(home), str(PORT), *dial]
    running = await lab.start("theirs", argv, name="rust", env={"RUST_LOG": "info"})
    await ready(running)
    return running, f"/ip4/{lab.ip('theirs')}/tcp/{PORT}"


async def test_the_original_asks_our_server(original_installed: Path, tmp_path: Path) -> None:
    """First for a port where it does not listen: it dials as it starts, before it listens, and
    believes in the port from which it did. When it has to dial again, it knows better.
    """
    key = tmp_path / "key"
    identity = Identity.generate()
    identity.save(key)
    async with open_lab(SCENARIO) as lab:
        addr = f"/ip4/{lab.ip('ours')}/tcp/{PORT}/p2p/{identity.peer_id}"
        client, where = await start_original(lab, original_installed, addr)
        await client.wait_stderr("Listening on: /ip4/11.", PATIENCE)
        server, _ = await start_ours(lab, "serve-as", str(key))
        said = f"autonat dialed back: OK addr={where} "
        assert await server.wait_stderr(said, PATIENCE), (client.stderr(), server.stderr())
