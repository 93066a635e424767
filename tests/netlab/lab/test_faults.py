"""What goes wrong in a lab on purpose: faults alone, together, and those that cannot be done."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root, require_tool
from tests.netlab.labs import FEW, ask, seen, start_echo
from tools.netlab.errors import LabError
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.runs import faults
from tools.netlab.runs.runner import run_scenario
from tools.netlab.spec.fault import FAULTS
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


# --- what is nested ---


def nested(nat: str, backend: str) -> str:
    """Three routers, each behind the last, and a host behind them all."""
    name = f"{nat}-{backend}"
    routers = "".join(
        f"[routers.{name}-{n}]\nnat = '{nat}'\nbackend = '{backend}'\nbehind = '{behind}'\n"
        for n, behind in ((1, "internet"), (2, f"{name}-1"), (3, f"{name}-2"))
    )
    return f"{routers}[hosts.in-{name}]\nbehind = '{name}-3'\n"


async def test_routers_three_deep_are_crossed_and_left_as_planned() -> None:
    kinds = [
        (nat, backend)
        for nat in ("linux-masquerade", "firewall")
        for backend in ("nftables", "userspace")
    ]
    text = "ipv6 = true\n[hosts.server]\n" + "".join(nested(*kind) for kind in kinds)
    hosts = [f"in-{nat}-{backend}" for nat, backend in kinds]
    async with open_lab(parse(text, "test")) as lab:
        ipv4, ipv6 = lab.ip("server"), lab.plan.ipv6["server"]
        await start_echo(lab, "server", ipv4)
        await start_echo(lab, "server", ipv6, 8)
        found: dict[str, tuple[str | None, str | None]] = {}

        async def look(host: str) -> None:
            found[host] = await seen(lab, host, ipv4), await seen(lab, host, ipv6, 8)

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(look, host)
        assert found == {host: (lab.public_ip(host), lab.plan.ipv6[host]) for host in hosts}
        # A firewall does not translate: what is behind it is seen as it is.
        for host in hosts:
            assert (lab.public_ip(host) == lab.ip(host)) == ("firewall" in host)


# --- a host that moves ---


async def ipv6_routes(lab: Lab, node: str) -> str:
    status, out, errors = await lab.run(node, ["ip", "-6", "route", "show", "default"])
    assert status == 0, errors
    return out.decode()


async def test_a_host_that_moves_takes_nothing_along() -> None:
    only_ipv4 = replace(NAMES["cgnat"], ipv6="drop")
    routers = (
        Router("wifi"),
        Router("mobile", nat=NAMES["linux-masquerade"]),
        Router("four", nat=only_ipv4),
    )
    hosts = (
        Host("b"),
        Host("phone", behind="wifi", standby="mobile"),
        Host("tablet", behind="wifi", standby="internet"),
        Host("legacy", behind="wifi", standby="four"),
    )
    made = Scenario("test", hosts=hosts, routers=routers, ipv6=True)
    async with open_lab(made) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        assert "eth0" in await ipv6_routes(lab, "legacy")
        await lab.handover("legacy")
        # Where it is now there is no IPv6.
        assert await ipv6_routes(lab, "legacy") == ""
        assert await seen(lab, "legacy", lab.ip("b")) == lab.public_ip("four")
        assert lab.public_ip("legacy") == lab.public_ip("four")
        await lab.handover("legacy")
        assert "eth0" in await ipv6_routes(lab, "legacy")
        # An address that was changed is left and found again.
        await lab.handover("tablet")
        first = lab.public_ip("tablet")
        moved = await lab.change_address("tablet")
        assert moved != first
        for at in (moved, lab.public_ip("wifi"), moved):
            assert await seen(lab, "tablet", lab.ip("b")) == at == lab.public_ip("tablet")
            await lab.handover("tablet")
        # The address of a router behind which it is not is none of its own.
        changed = await lab.change_address("wifi")
        await lab.handover("phone")
        assert lab.public_ip("phone") == lab.public_ip("mobile") != changed
        with pytest.raises(LabError, match="that it could change"):
            await lab.change_address("phone")


async def test_addresses_do_not_run_out() -> None:
    async with open_lab(Scenario("test", hosts=(Host("a", addresses=3), Host("b")))) as lab:
        await start_echo(lab, "b", lab.ip("b"))
        found = [await lab.change_address("a") for _ in range(200)]
        assert len(set(found)) == 127
        assert await seen(lab, "a", lab.ip("b")) == found[-1]
        _, out, _ = await lab.run("a", ["ip", "-4", "-o", "address", "show", "eth0"])
        # The others it has kept.
        assert len(out.splitlines()) == 3


# --- faults that overlap ---


@pytest.mark.parametrize("link", [Link(), Link(LinkSpec(delay_s=0.001))], ids=["veth", "tun"])
async def test_a_link_that_was_cut_is_mended_after_a_move(link: Link) -> None:
    phone = Host("phone", behind="wifi", link=link, standby="mobile", standby_link=link)
    routers = (Router("wifi"), Router("mobile"))
    async with open_lab(Scenario("test", hosts=(phone, Host("b")), routers=routers)) as lab:
        server = lab.ip("b")
        await start_echo(lab, "b", server)
        await lab.set_link_up("phone", False, "one")
        await lab.handover("phone")
        assert await seen(lab, "phone", server) == lab.public_ip("mobile")
        await lab.set_link_up("phone", True, "one")
        await lab.handover("phone")
        assert await seen(lab, "phone", server) == lab.public_ip("wifi")
        # A link lives when nobody wants it dead.
        await lab.set_link_up("phone", False, "one")
        await lab.set_link_up("phone", False, "two")
        await lab.set_link_up("phone", True, "one")
        assert await ask(lab, "phone", server, tries=FEW) is None
        await lab.set_link_up("phone", True, "two")
        assert await ask(lab, "phone", server)


async def test_changes_of_a_link_are_undone_each_by_itself() -> None:
    dead, alive = Link(LinkSpec(loss=1.0)), Link(LinkSpec(delay_s=0.001))
    phone = Host("phone", behind="wifi", link=alive, standby="mobile", standby_link=alive)
    routers = (Router("wifi"), Router("mobile"))
    async with open_lab(Scenario("test", hosts=(phone, Host("b")), routers=routers)) as lab:
        server = lab.ip("b")
        await start_echo(lab, "b", server)
        await lab.set_link("phone", alive, "one")
        await lab.set_link("phone", dead, "two")
        await lab.restore_link("phone", "one")
        assert await ask(lab, "phone", server, tries=FEW) is None
        await lab.handover("phone")
        assert await ask(lab, "phone", server)
        await lab.restore_link("phone", "two")
        await lab.handover("phone")
        assert await ask(lab, "phone", server)


async def test_partitions_that_overlap() -> None:
    hosts = tuple(Host(name) for name in "abcd")
    async with open_lab(Scenario("test", hosts=hosts)) as lab:
        for name in "bd":
            await start_echo(lab, name, lab.ip(name))
        await lab.partition([["a"], ["b"]], "1")
        await lab.partition([["c"], ["d"]], "2")
        assert await ask(lab, "a", lab.ip("b"), tries=FEW) is None
        assert await ask(lab, "c", lab.ip("d"), tries=FEW) is None
        await lab.heal("1")
        assert await ask(lab, "a", lab.ip("b"))
        assert await ask(lab, "c", lab.ip("d"), tries=FEW) is None
        await lab.heal("2")
        assert await ask(lab, "c", lab.ip("d"))


# --- faults of a scenario ---

SERVER = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 7))
print(json.dumps({"event": "ready"}), flush=True)
while True:
    _, source = sock.recvfrom(2048)
    sock.sendto(json.dumps(source[:2]).encode(), source)
"""
# Tells by which addresses it is seen, when it was stopped for a while, and when the clock jumps;
# ends when it has seen three addresses.
CLIENT = """
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.05)
def tell(**event):
    print(json.dumps(event), flush=True)
addresses = []
while len(addresses) < 3:
    wall, steady = time.time(), time.monotonic()
    try:
        sock.sendto(b"?", (sys.argv[1], 7))
        address = json.loads(sock.recv(2048))[0]
        if address not in addresses:
            addresses.append(address)
            tell(event="seen", at=address)
    except OSError:
        pass
    time.sleep(0.02)
    if abs(time.time() - wall - (time.monotonic() - steady)) > 1000:
        tell(event="jump")
    if time.monotonic() - steady > 0.8:
        tell(event="gap")
"""
ALL_KINDS = """
    duration_s = 300
    [routers.wifi]
    nat = "linux-masquerade"
    [routers.mobile]
    nat = "port-restricted"
    [hosts.phone]
    behind = "wifi"
    standby = "mobile"
    [hosts.far]
    [programs.server]
    kind = "command"
    host = "far"
    argv = ["{python}", "-c", '''SERVER''', "{ip:far}"]
    exit_code = "none"
    ready = "ready"
    [programs.client]
    kind = "command"
    host = "phone"
    argv = ["{python}", "-c", '''CLIENT''', "{ip:far}"]
    ready = "seen"
    after = ["server"]
    [[faults]]
    kind = "link-down"
    at_s = 1.0
    node = "phone"
    for_s = 0.3
    [[faults]]
    kind = "link-change"
    at_s = 1.1
    node = "phone"
    link = { both = { delay_s = 0.01 } }
    for_s = 0.5
    [[faults]]
    kind = "nat-reboot"
    at_s = 1.2
    router = "wifi"
    for_s = 0.3
    [[faults]]
    kind = "partition"
    at_s = 1.3
    groups = [["wifi"], ["far"]]
    for_s = 0.3
    [[faults]]
    kind = "kill"
    at_s = 1.4
    program = "server"
    for_s = 0.3
    [[faults]]
    kind = "pause"
    at_s = 1.8
    program = "client"
    for_s = 1.0
    [[faults]]
    kind = "clock-skew"
    at_s = 3.0
    program = "client"
    offset_s = 1e6
    [[faults]]
    kind = "address-change"
    at_s = 3.5
    node = "wifi"
    [[faults]]
    kind = "handover"
    at_s = 9.5
    host = "phone"
"""


def all_kinds() -> Scenario:
    text = textwrap.dedent(ALL_KINDS)
    return parse(text.replace("SERVER", SERVER).replace("CLIENT", CLIENT), "test")


async def test_every_kind_of_fault_does_what_it_says() -> None:
    require_tool("cc", "gcc")
    made = all_kinds()
    assert {type(fault) for fault in made.faults} == set(FAULTS.values())
    heard: list[tuple[str, dict[str, Any]]] = []

    def hear(program: str, event: dict[str, Any]) -> None:
        heard.append((program, event))

    report = await run_scenario(made, on_event=hear)
    assert report.complaints == ()
    assert [what for _, what in report.faults] == [step.text for step in faults.steps(made.faults)]
    assert report.outcome("client").ok, report.outcome("client").detail
    said = [event for program, event in heard if program == "client"]
    assert len([event for event in said if event["event"] == "seen"]) == 3
    assert "gap" in {event["event"] for event in said}
    assert "jump" in {event["event"] for event in said}
    assert len([event for program, event in heard if program == "server"]) == 2


async def test_a_command_that_was_killed_is_judged_by_what_comes_of_it_then() -> None:
    """The second time it ends at once; what the first has started still holds its output."""
    report = await run_scenario(
        scenario("""
            [hosts.a]
            [programs.again]
            kind = "command"
            host = "a"
            argv = ["sh", "-c", '''
                test -e mark && exit; touch mark; echo '{"event": "up"}'; sleep 1000; exit 5''']
            ready = "up"
            [programs.slow]
            kind = "command"
            host = "a"
            argv = ["sh", "-c", '''
                test -e mark && echo '{"event": "up"}' && exit; touch mark; sleep 9''']
            ready = "up"
            at_s = 0.6
            [programs.gone]
            kind = "command"
            host = "a"
            argv = ["sleep", "1000"]
            exit_code = -9
            [[faults]]
            kind = "kill"
            at_s = 0.5
            for_s = 0.4
            program = "again"
            [[faults]]
            kind = "kill"
            at_s = 6.0
            for_s = 0.2
            program = "slow"
            [[faults]]
            kind = "kill"
            at_s = 0.5
            program = "gone"
        """)
    )
    assert {outcome.program: outcome.detail for outcome in report.outcomes} == {
        "again": "ended with status 0",
        "slow": "ended with status 0",
        "gone": "ended with status -9",
    }
    assert report.ok


async def test_a_fetch_that_was_killed_begins_again() -> None:
    report = await run_scenario(
        scenario("""
            [hosts.a]
            link = { both = { rate_bps = 8e6 } }
            [hosts.b]
            [programs.share]
            kind = "publish"
            host = "b"
            size_mib = 2
            [programs.get]
            kind = "fetch"
            host = "a"
            source = "share"
            [[faults]]
            kind = "kill"
            at_s = 1.0
            for_s = 0.1
            program = "get"
        """)
    )
    assert report.ok, report
    assert "identical" in report.outcome("get").detail
    assert [what for _, what in report.faults] == ["get killed", "get started again"]


async def test_a_fault_that_cannot_be_done_is_a_complaint_and_no_more() -> None:
    report = await run_scenario(
        scenario("""
            [hosts.a]
            standby = "home"
            [hosts.b]
            [routers.home]
            [programs.p]
            kind = "command"
            host = "a"
            argv = ["true"]
            [[faults]]
            kind = "handover"
            at_s = 0.1
            host = "a"
            [[faults]]
            kind = "address-change"
            at_s = 0.2
            node = "a"
            [[faults]]
            kind = "handover"
            at_s = 0.3
            host = "a"
            [[faults]]
            kind = "address-change"
            at_s = 0.4
            node = "a"
        """)
    )
    assert not report.ok
    (complaint,) = report.complaints
    assert "at 0.2 s: could not be done: a has no IPv4 address at the internet" in complaint
    assert report.outcome("p").ok
    # What came after it was done; and there is a line that says what was not.
    assert len(report.faults) == 5


# --- what takes the lab down, and what does not ---


async def test_a_request_that_makes_no_sense_ends_nothing() -> None:
    async with open_lab(Scenario("test", hosts=(Host("a"),))) as lab:
        with pytest.raises(LabError, match="empty"):
            await lab.run("a", [])
        stays = await lab.start("a", ["sleep", "1000"], name="stays")
        # The guardian itself is asked, with what the lab would not ask it.
        for request in ({"do": "start"}, {"do": "start", "argv": [], "env": {}, "cwd": "/"}, {}):
            with pytest.raises(LabError):
                await lab._guardian._ask(dict(request), [0, 0, 1, 2])
        assert (await lab.run("a", ["echo", "well"]))[:2] == (0, b"well\n")
        assert stays.process.status is None


async def test_a_device_that_is_taken_away_ends_the_lab() -> None:
    host = Host("a", link=Link(LinkSpec(delay_s=0.001)))

    async def take_it() -> None:
        async with open_lab(Scenario("test", hosts=(host,))) as lab:
            await lab.run("a", ["ip", "link", "delete", "eth0"])
            await trio.sleep_forever()

    with pytest.raises(LabError, match="the forwarder has lost the device eth0 of a"):
        await take_it()


# --- the tests themselves ---


@pytest.mark.parametrize("ci", ["", "true"])
def test_in_ci_nothing_is_skipped_for_want_of_a_tool(
    monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="needs no-such-tool"):
        require_tool("no-such-tool", "no-such-package")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(outcome, match="needs root"):
        require_root()
