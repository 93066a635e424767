"""A lab as built: who reaches whom, and what can be done to it while it runs."""

from __future__ import annotations

import json
import signal
import sys
import textwrap

import pytest
import trio

from tests.netlab.holders import require_root, require_tool
from tests.netlab.labs import FEW, ask, python, seen, start_echo
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import open_lab
from tools.netlab.probe.probing import PROBE
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.scenario import parse
from tools.netlab.spec.topology import Host, Link, Router


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def scenario(text: str) -> Scenario:
    return parse(textwrap.dedent(text), "test")


INTERNET = """
    ipv6 = true
    [routers.isp]
    nat = "cgnat"
    [routers.inner]
    nat = "linux-masquerade"
    behind = "isp"
    [routers.fw]
    nat = "firewall"
    [routers.soft-fw]
    nat = "firewall"
    backend = "userspace"
    [routers.cloud]
    nat = "one-to-one"
    [routers.soft-cloud]
    nat = "one-to-one"
    backend = "userspace"
    [hosts.deep]
    behind = "inner"
    [hosts.slow]
    behind = "inner"
    link = { both = { delay_s = 0.005 } }
    [hosts.walled]
    behind = "fw"
    [hosts.soft-walled]
    behind = "soft-fw"
    [hosts.rented]
    behind = "cloud"
    [hosts.soft-rented]
    behind = "soft-cloud"
    [hosts.old]
    ipv6 = false
    [hosts.new]
    ipv4 = false
    [hosts.server]
"""


async def test_everybody_reaches_the_internet_and_is_seen_as_planned():
    async with open_lab(scenario(INTERNET)) as lab:
        public, public6 = lab.public_ip("server"), lab.plan.ipv6["server"]
        await start_echo(lab, "server", public)
        await start_echo(lab, "server", public6, 8)
        found: dict[str, object] = {}

        async def look(node: str) -> None:
            if node != "new":
                found[node] = await seen(lab, node, public)
            if node != "old":
                found[f"{node} 6"] = await seen(lab, node, public6, 8)

        nodes = [host.name for host in lab.scenario.hosts if host.name != "server"]
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(look, node)
        want: dict[str, object] = {node: lab.public_ip(node) for node in nodes if node != "new"}
        want |= {f"{node} 6": lab.plan.ipv6[node] for node in nodes if node != "old"}
        assert found == want

        # From outside: to whoever is open, and to nobody else.
        for node in ("rented", "soft-rented"):
            await start_echo(lab, node, lab.ip(node))
            assert await seen(lab, "old", lab.public_ip(node)) == lab.public_ip("old")
        for node in ("walled", "soft-walled"):
            await start_echo(lab, node, lab.ip(node))
            assert await ask(lab, "old", lab.public_ip(node), tries=FEW) is None
            await start_echo(lab, node, lab.plan.ipv6[node], 8)
            assert await ask(lab, "server", lab.plan.ipv6[node], 8, tries=FEW) is None

        # Inside one network, over the bridge and to what hangs on a TUN device.
        await start_echo(lab, "slow", lab.ip("slow"))
        await start_echo(lab, "slow", lab.plan.ipv6["slow"], 8)
        assert await seen(lab, "deep", lab.ip("slow")) == lab.ip("deep")
        assert await seen(lab, "deep", lab.plan.ipv6["slow"], 8) == lab.plan.ipv6["deep"]


async def test_neighbours_hear_each_others_multicast():
    text = """
        [routers.home]
        [hosts.a]
        behind = "home"
        [hosts.b]
        behind = "home"
    """
    listen = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5353))
member = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
print(json.dumps({"event": "ready"}), flush=True)
print(json.dumps({"event": "heard", "from": sock.recvfrom(100)[1][0]}), flush=True)
"""
    shout = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20):
    sock.sendto(b"x", ("224.0.0.251", 5353))
    time.sleep(0.1)
"""
    async with open_lab(scenario(text)) as lab:
        ears = await lab.start("b", python(listen, lab.ip("b")), name="ears")
        await ears.wait_event(lambda event: event.get("event") == "ready")
        await lab.start("a", python(shout), name="mouth")
        _, event = await ears.wait_event(lambda event: event.get("event") == "heard")
        assert event["from"] == lab.ip("a")


@pytest.mark.parametrize("shaped", [False, True])
async def test_a_link_is_cut_and_mended(shaped):
    link = Link(LinkSpec(delay_s=0.001), LinkSpec(delay_s=0.001)) if shaped else Link()
    hosts = (Host("a", link=link), Host("b"))
    async with open_lab(Scenario("test", hosts=hosts)) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        assert await ask(lab, "a", lab.ip("b"))
        await lab.set_link_up("a", False)
        assert await ask(lab, "a", lab.ip("b"), tries=FEW) is None
        await lab.set_link_up("a", True)
        assert await ask(lab, "a", lab.ip("b"))
        await lab.set_link_up("b", False)
        assert await ask(lab, "a", lab.ip("b"), tries=FEW) is None


async def test_a_link_changes_if_it_was_made_to():
    lossless = Link(LinkSpec(delay_s=0.001))
    hosts = (Host("a", link=lossless), Host("b"))
    async with open_lab(Scenario("test", hosts=hosts)) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        await lab.set_link("a", Link(LinkSpec(loss=1.0)))
        assert await ask(lab, "a", lab.ip("b"), tries=FEW) is None
        await lab.set_link("a", lossless)
        assert await ask(lab, "a", lab.ip("b"))
        with pytest.raises(LabError, match="cannot be shaped"):
            await lab.set_link("b", lossless)


@pytest.mark.parametrize("nat", ["linux-masquerade", "symmetric-random", "port-restricted"])
async def test_a_rebooted_nat_has_forgotten(nat):
    """Who was let in before, as an answer, is not any more."""
    routers = (Router("home", nat=NAMES[nat]),)
    hosts = (Host("a", behind="home"), Host("b"))
    wait = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4000))
sock.sendto(b"?", (sys.argv[1], 7))
print(json.dumps({"event": "seen", "at": json.loads(sock.recv(100))}), flush=True)
while True:
    print(json.dumps({"event": "got", "what": sock.recv(100).decode()}), flush=True)
"""
    poke = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind((sys.argv[1], 7))
sock.sendto(sys.argv[4].encode(), (sys.argv[2], int(sys.argv[3])))
"""
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        server = lab.ip("b")
        echo = await start_echo(lab, "b", server)
        inside = await lab.start("a", python(wait, server), name="inside")
        _, event = await inside.wait_event(lambda event: event["event"] == "seen")
        await echo.stop()
        ip, port = event["at"]
        assert ip == lab.public_ip("a")

        async def send(text: str) -> None:
            status, _, errors = await lab.run("b", python(poke, server, ip, port, text))
            assert status == 0, errors

        await send("before")
        await inside.wait_event(lambda event: event.get("what") == "before")
        await lab.reboot_nat("home")
        await send("after")
        await trio.sleep(0.3)
        assert [event["what"] for event in inside.events if "what" in event] == ["before"]


@pytest.mark.parametrize("nat", ["linux-masquerade", "port-restricted"])
async def test_a_router_gets_another_address(nat):
    routers = (Router("home", nat=NAMES[nat]),)
    hosts = (Host("a", behind="home"), Host("b"))
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        before = lab.public_ip("a")
        assert await seen(lab, "a", lab.ip("b")) == before
        after = await lab.change_address("home")
        assert after != before
        assert await seen(lab, "a", lab.ip("b")) == after
        assert lab.public_ip("a") == after
        # And a host of its own, twice.
        await lab.change_address("b")
        moved = await lab.change_address("b")
        await start_echo(lab, "b", moved, 8)
        assert await seen(lab, "a", moved, 8) == after


@pytest.mark.parametrize("link", [Link(), Link(LinkSpec(delay_s=0.002))])
async def test_a_host_moves_and_moves_back(link):
    routers = (Router("wifi"), Router("mobile", nat=NAMES["cgnat"]))
    phone = Host("phone", behind="wifi", standby="mobile", link=link, standby_link=link)
    async with open_lab(Scenario("test", hosts=(phone, Host("b")), routers=routers)) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        for router in ("wifi", "mobile", "wifi"):
            assert await seen(lab, "phone", lab.ip("b")) == lab.plan.public_ip[router]
            await lab.handover("phone")


async def test_a_partition_and_its_healing():
    routers = (Router("home"),)
    hosts = (Host("a", behind="home"), Host("b"), Host("c"))
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        await lab.partition([["home"], ["b"]])
        assert await ask(lab, "a", lab.ip("b"), tries=FEW) is None
        assert await ask(lab, "c", lab.ip("b"))
        await lab.heal()
        assert await ask(lab, "a", lab.ip("b"))


async def test_two_labs_beside_each_other():
    made = Scenario("test", hosts=(Host("a"), Host("b")))
    async with open_lab(made) as one, open_lab(made) as two:
        assert one.name != two.name
        assert one.ip("b") == two.ip("b")
        await start_echo(one, "b", one.ip("b"))
        assert await ask(one, "a", one.ip("b"))
        assert await ask(two, "a", two.ip("b"), tries=FEW) is None


async def test_mistakes_in_its_use():
    async with open_lab(Scenario("test", hosts=(Host("a"),))) as lab:
        with pytest.raises(LabError, match="no node 'b'"):
            await lab.run("b", ["true"])
        with pytest.raises(LabError, match="no-such-program"):
            await lab.run("a", ["no-such-program"])
        with pytest.raises(LabError, match="no second attachment"):
            await lab.handover("a")
        with pytest.raises(LabError, match="not a router"):
            await lab.reboot_nat("a")
        running = await lab.start("a", python("raise SystemExit('last words')"), name="short")
        with pytest.raises(LabError, match="last words"):
            await running.wait_event(lambda event: True)


async def test_a_program_is_stopped_killed_and_let_go():
    async with open_lab(Scenario("test", hosts=(Host("a"),))) as lab:
        stubborn = python(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            'print(\'{"event": "ready"}\', flush=True); time.sleep(1000)'
        )
        running = await lab.start("a", stubborn, name="stubborn")
        await running.wait_event(lambda event: event["event"] == "ready")
        assert await running.stop(grace_s=0.2) == -signal.SIGKILL
        meek = await lab.start("a", ["sleep", "1000"], name="meek")
        assert await meek.stop() == -signal.SIGTERM
        assert await lab.run("a", ["sh", "-c", "cat; echo bad >&2; exit 3"], b"in") == (
            3,
            b"in",
            b"bad\n",
        )


async def test_a_clock_that_is_wrong_and_a_capture(tmp_path):
    text = """
        duration_s = 150
        [hosts.a]
        [hosts.b]
        [programs.clock]
        kind = "command"
        host = "a"
        argv = ["{python}", "-c", "import json, time; t = time.time(); \
            print(json.dumps({'event': 'ready'})); \
            [time.sleep(0.01) for _ in range(12_000) if time.time() - t < 5e8]; \
            print(json.dumps({'event': 'done', 'jump': time.time() - t}))"]
        ready = "ready"
        [[faults]]
        kind = "clock-skew"
        at_s = 0.1
        program = "clock"
        offset_s = 1e9
    """
    require_tool("cc", "gcc")
    require_tool("tcpdump", "tcpdump")
    options = Options(out=tmp_path / "out", pcap=("b",))
    report = await run_scenario(scenario(text), options)
    outcome = report.outcome("clock")
    assert outcome.ok, outcome.detail
    assert abs(outcome.values["events"][0]["jump"] - 1e9) < 1000
    assert (tmp_path / "out" / "paths.svg").exists()
    assert "done" in (tmp_path / "out" / "clock.stdout.log").read_text()
    magic = (tmp_path / "out" / "b.pcap").read_bytes()[:4]
    assert magic in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4")


# Asks the router's port control for a port by NAT-PMP (RFC 6886) and by PCP (RFC 6887), and
# looks for a gateway by SSDP (UPnP).
PORT_CONTROL = """
import json, socket, struct, sys
inside, router = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(2)

def ask(request, to):
    for _ in range(30):
        sock.sendto(request, to)
        try:
            return sock.recv(2048)
        except TimeoutError:
            pass
    return None

answer = {}
reply = ask(struct.pack("!BBHHHI", 0, 1, 0, 7, 7007, 600), (router, 5351))
if reply:
    _, op, result, _, private, public, life = struct.unpack("!BBHIHHI", reply[:16])
    answer["nat-pmp"] = [op, result, private, public]
mapped = bytes(10) + b"\\xff\\xff" + socket.inet_aton(inside)
anywhere = bytes(10) + b"\\xff\\xff" + bytes(4)
request = struct.pack("!BBHI", 2, 1, 0, 600) + mapped + b"n" * 12
request += struct.pack("!B3xHH", 17, 8, 8008) + anywhere
reply = ask(request, (router, 5351))
if reply:
    answer["pcp"] = [reply[3], *struct.unpack("!HH", reply[40:44])]
search = (
    "M-SEARCH * HTTP/1.1\\r\\nHOST: 239.255.255.250:1900\\r\\nMAN: \\"ssdp:discover\\"\\r\\n"
    "MX: 1\\r\\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\\r\\n\\r\\n"
)
reply = ask(search.encode(), ("239.255.255.250", 1900))
answer["upnp"] = bool(reply) and b"InternetGatewayDevice" in reply
print(json.dumps(answer))
"""


async def test_a_router_opens_ports_on_request():
    require_tool("miniupnpd", "miniupnpd miniupnpd-nftables")
    routers = (Router("home", nat=NAMES["upnp"]),)
    hosts = (Host("a", behind="home"), Host("b"))
    async with open_lab(Scenario("test", hosts=hosts, routers=routers)) as lab:
        for port in (7, 8):
            await start_echo(lab, "a", lab.ip("a"), port)
        outside = lab.public_ip("a")
        assert await ask(lab, "b", outside, 7007, tries=FEW) is None
        status, out, errors = await lab.run("a", python(PORT_CONTROL, lab.ip("a"), "192.168.1.1"))
        assert status == 0, errors
        assert json.loads(out) == {
            "nat-pmp": [129, 0, 7, 7007],
            "pcp": [0, 8, 8008],
            "upnp": True,
        }
        assert await seen(lab, "b", outside, 7007) == lab.ip("b")
        assert await seen(lab, "b", outside, 8008) == lab.ip("b")
        await lab.reboot_nat("home")
        assert await ask(lab, "b", outside, 7007, tries=FEW) is None


async def test_programs_are_alone_with_their_settings(monkeypatch):
    monkeypatch.setenv("LATTICA_LISTEN", "/ip4/6.6.6.6/tcp/6")
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    async with open_lab(Scenario("test", hosts=(Host("a"),))) as lab:
        _, out, _ = await lab.run("a", ["env"])
        assert b"LATTICA_LISTEN" not in out
        assert b"PYTHONPATH" not in out
        status, out, _ = await lab.run("a", [*PROBE, "--help"])
        assert (status, b"classify" in out) == (0, True)
        _, out, _ = await lab.run("a", [sys.executable, "-c", "import os; print(os.getpid())"])
        # The lab's processes are in a PID namespace of their own.
        assert int(out) < 1000
