"""Paths that come and go under a fetch: real NATs, real commands, real faults.

Times are reported (`pytest -s`), not asserted: what is asserted is what happened, in which order.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import LATTICA, Event, Running
from tools.netlab.runs import skew
from tools.netlab.runs.jobs import make_files, tree_hash
from tools.netlab.runs.mesh import path_kind
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Router
from tools.netlab.spec.workload import PublishProgram

pytestmark = pytest.mark.root

PROGRAMS = str(Path(__file__).with_name("path_programs.py"))
HALF_WAY = LinkSpec(delay_s=0.0125, rate_bps=30e6)
LINE = Link(HALF_WAY, HALF_WAY)
"""Two of these in a row, there and back: 50 ms."""
LARGE_MIB, SIZE_MIB = 32, 12
AT_A_TIME = 3
ENOUGH_S = 120
"""For whatever is waited for, on a machine that has much else to do."""
UNLIMITED = {
    f"LATTICA_NAT__RELAY_SERVER__LIMITS__{name}": "0"
    for name in (
        "STRANGERS_RATE",
        "FOR_STRANGERS__DATA",
        "FOR_STRANGERS__DURATION",
        "FOR_STRANGERS__RATE",
    )
}
"""A relay of one's own, for peers whose IDs it cannot know before."""
TRYING_S = 10
"""So long two peers look for a direct path that there is not."""
MOST_FOR_A_STRANGER = 300
"""Packets, of both."""
LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/4002", "--listen", "/ip4/0.0.0.0/udp/4002/quic-v1/noise")


def homes(nat: str, *public: str) -> Scenario:
    """Alice and Bob, each behind such a NAT."""
    sides = ("a", "alice"), ("b", "bob")
    return Scenario(
        "paths",
        hosts=(
            *(Host(name, link=LINE) for name in public),
            *(Host(name, behind=f"home-{side}") for side, name in sides),
        ),
        routers=tuple(Router(f"home-{side}", nat=NAMES[nat], link=LINE) for side, _ in sides),
    )


class Stage:
    """A lab with relays, where Alice publishes and Bob fetches."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.relays: dict[str, Running] = {}
        self.relay_addrs: dict[str, list[str]] = {}
        self.relay_ids: dict[str, str] = {}
        self.ticket = ""
        """Alice's."""
        self.publisher = ""
        """Alice's ID."""
        self.env: dict[str, str] = {}
        """For all programs that are started."""

    async def start_relay(self, name: str) -> None:
        relay = await self.lab.start(
            name, [*LATTICA, "relay", "--open", "--json"], name=name, env=UNLIMITED | self.env
        )
        ready = await said(relay, "ready")
        self.relays[name] = relay
        self.relay_ids[ready["peer_id"]] = name
        self.relay_addrs[name] = [addr for addr in ready["addrs"] if "/127." not in addr]

    @property
    def relay_options(self) -> list[str]:
        addrs = (addr for addrs in self.relay_addrs.values() for addr in addrs)
        return [word for addr in addrs for word in ("--relay", addr)]

    async def publish(self, size_mib: float = SIZE_MIB) -> str:
        """Alice's ticket."""
        files = self.lab.folder / "files"
        program = PublishProgram("share", "alice", size_mib=size_mib)
        await trio.to_thread.run_sync(make_files, files, program, 1)
        argv = [*LATTICA, "publish", str(files), "--json", *LISTEN, *self.relay_options]
        running = await self.lab.start("alice", argv, name="share", env=self.env)
        with trio.fail_after(ENOUGH_S):
            _, event = await running.wait_event(lambda event: "ticket" in event)
        assert "relayed" in map(path_kind, event["addrs"]), event
        self.publisher, self.ticket = event["peer_id"], event["ticket"]
        return self.ticket

    async def fetch(self, ticket: str, name: str = "get") -> Running:
        argv = program("fetch", ticket, str(self.lab.folder / name / "out"))
        return await self.lab.start("bob", argv, name=name, env=self.env)

    async def finish(self, running: Running) -> Event:
        """Its result; the bytes must be those that were published."""
        result = await said(running, "fetched")
        with trio.fail_after(ENOUGH_S):
            assert await running.process.wait() == 0, running.last_words()
        got, given = running.folder / "out", self.lab.folder / "files"
        same = await trio.to_thread.run_sync(lambda: tree_hash(got) == tree_hash(given))
        assert same
        return result

    async def path(self, get: Running, *, after: Event | None = None, **values: str) -> Event:
        """The first path to Alice (with these values), or the first one after another."""
        start = 0 if after is None else get.events.index(after) + 1
        news = "peer_connected", "path_changed"
        return await said(get, *news, start=start, peer_id=self.publisher, **values)

    def paths(self, get: Running) -> list[str]:
        """The paths to Alice that were in use, in their order."""
        return [
            event["path"]
            for event in get.events
            if event["event"] in ("peer_connected", "path_changed")
            and event["peer_id"] == self.publisher
        ]

    def relay_of(self, event: Event) -> str:
        """The relay of the path that an event tells of."""
        return self.relay_ids[event["addr"].split("/p2p/")[1].split("/")[0]]


@asynccontextmanager
async def stage(nat: str, *relays: str) -> AsyncIterator[Stage]:
    async with open_lab(homes(nat, *relays)) as lab:
        made = Stage(lab)
        for relay in relays:
            await made.start_relay(relay)
        yield made


def program(*arguments: str) -> list[str]:
    return [sys.executable, PROGRAMS, *arguments]


async def said(running: Running, *names: str, start: int = 0, **values: object) -> Event:
    """The first event from number `start` on of one of these names, with these values."""

    def matches(event: Event) -> bool:
        return event.get("event") in names and values.items() <= event.items()

    with trio.move_on_after(ENOUGH_S):
        _, event = await running.wait_event(matches, start)
        return event
    words = f"{running.events[-5:]}{running.last_words()}"
    raise AssertionError(f"{running.name} never said {names} {values}: {words}")


async def got(running: Running, mib: float) -> Event:
    """The first progress that is so far."""
    with trio.fail_after(ENOUGH_S):
        _, event = await running.wait_event(lambda event: event.get("bytes", 0) >= mib * (1 << 20))
    return event


def longest_gap(running: Running, since: float) -> float:
    """Seconds without progress from a moment on."""
    news = [event["t"] for event in running.events if event["event"] == "progress"]
    return max((b - a for a, b in pairwise([since, *(t for t in news if t > since)])), default=0.0)


async def a_relay_is_killed_under_a_fetch() -> None:
    """These two can have no direct path: they go on over the other relay."""
    async with stage("symmetric-random", "relay-1", "relay-2") as on:
        get = await on.fetch(await on.publish(LARGE_MIB))
        first = await on.path(get)
        await got(get, 4)
        victim = on.relay_of(first)
        killed = on.lab.now()
        await on.relays[victim].stop(grace_s=0)
        result = await on.finish(get)
        assert set(on.paths(get)) == {"relayed"}
        second = await on.path(get, after=first)
        assert on.relay_of(second) != victim
        assert result["path"] == "relayed"
        print(f"relay killed: {longest_gap(get, killed):.2f} s without progress")


async def from_relayed_to_direct_and_back_in_one_fetch() -> None:
    async with stage("port-restricted", "relay") as on:
        get = await on.fetch(await on.publish())
        relayed = await on.path(get)
        assert relayed["path"] == "relayed"
        direct = await on.path(get, after=relayed)
        assert direct["path"].startswith("direct-")
        assert direct["previous"] == "relayed"
        await got(get, 4)
        cut = on.lab.now()
        await on.lab.partition([["home-a"], ["home-b"]])
        again = await on.path(get, after=direct, path="relayed")
        result = await on.finish(get)
        assert result["path"] == "relayed"
        print(
            f"direct {direct['t'] - relayed['t']:.2f} s after relayed; direct path dead: relayed "
            f"after {again['t'] - cut:.2f} s, {longest_gap(get, cut):.2f} s without progress"
        )


async def both_routers_reboot_under_a_fetch() -> None:
    async with stage("port-restricted", "relay") as on:
        get = await on.fetch(await on.publish())
        await got(get, 4)
        cut = on.lab.now()
        for router in ("home-a", "home-b"):
            await on.lab.reboot_nat(router)
        await on.finish(get)
        print(f"NAT reboot: {longest_gap(get, cut):.2f} s without progress, {on.paths(get)}")


async def clocks_jump_under_a_fetch() -> None:
    """All wall clocks, by a day and back by two. Then somebody comes anew."""
    async with open_lab(homes("port-restricted", "relay")) as lab:
        on = Stage(lab)
        clock = lab.folder / "clock"
        skew.set_offset(clock, 0)
        library = await trio.to_thread.run_sync(skew.build, lab.folder)
        on.env = skew.environment(library, clock)
        await on.start_relay("relay")
        ticket = await on.publish()
        get = await on.fetch(ticket)
        for mib, offset_s in ((1, 86_400), (4, -86_400), (8, 3_600)):
            await got(get, mib)
            skew.set_offset(clock, offset_s)
        await on.finish(get)
        await on.finish(await on.fetch(ticket, "get-again"))


async def both_sides_dial_at_once() -> None:
    async with stage("port-restricted", "relay") as on:
        lab = on.lab
        ids = {name: await identity(lab, name) for name in ("alice", "bob")}
        through = {
            name: [f"{addr}/p2p-circuit/p2p/{ids[name]}" for addr in on.relay_addrs["relay"]]
            for name in ids
        }
        nodes: dict[str, Running] = {}
        for name, other in (("alice", "bob"), ("bob", "alice")):
            connect = [word for addr in through[other] for word in ("--connect", addr)]
            argv = [*LATTICA, "node", "--json", *LISTEN, *on.relay_options, *connect]
            nodes[name] = await lab.start(name, argv, name=name)
        pairs = (("alice", "bob"), ("bob", "alice"))
        for name, other in pairs:
            first = await said(nodes[name], "peer_connected", peer_id=ids[other])
            direct = await direct_to(nodes[name], ids[other])
            print(f"both dial: {name} direct {direct['t'] - first['t']:.2f} s after connected")
        # What is superseded is closed; nothing is lost with it, and both keep the same.
        with trio.fail_after(ENOUGH_S):
            settled = False
            while not settled:
                await trio.sleep(3)
                paths = set()
                for name, other in pairs:
                    news = [e for e in nodes[name].events if e.get("peer_id") == ids[other]]
                    assert not [e for e in news if e["event"] == "peer_disconnected"], news
                    paths.add(news[-1]["path"])
                settled = len(paths) == 1 and paths.pop().startswith("direct-")


async def identity(lab: Lab, name: str) -> str:
    """The ID that a node on a host will have that runs under the host's name."""
    running = await lab.start(name, [*LATTICA, "id", "--json"], name=name)
    with trio.fail_after(ENOUGH_S):
        _, event = await running.wait_event(lambda event: "peer_id" in event)
    return str(event["peer_id"])


async def direct_to(node: Running, peer_id: str) -> Event:
    """The first direct path to a peer."""

    def matches(event: Event) -> bool:
        return event.get("peer_id") == peer_id and str(event.get("path")).startswith("direct-")

    with trio.fail_after(ENOUGH_S):
        _, event = await node.wait_event(matches)
    return event


async def a_relay_that_lies_aims_at_nobody() -> None:
    """It tells both that they are seen at a stranger's address, and at one in the other's home.

    Peers believe it, and try; the stranger must get no more than a handful of packets of it.
    """
    scenario = homes("port-restricted", "relay", "victim")
    printer = Host("printer", behind="home-b")
    scenario = replace(scenario, hosts=(*scenario.hosts, printer))
    async with open_lab(scenario) as lab:
        on = Stage(lab)
        victim, private = lab.public_ip("victim"), lab.ip("printer")
        watches: dict[str, Running] = {}
        for name in ("victim", "printer"):
            _, out, _ = await lab.run(name, ["ip", "-json", "route", "get", lab.public_ip("relay")])
            device = json.loads(out)[0]["dev"]
            watches[name] = await lab.start(name, program("watch", device), name=f"watch-{name}")
            await said(watches[name], "ready")
        liar = await lab.start(
            "relay", program("liar", victim, private, lab.public_ip("alice")), name="liar"
        )
        relay_id = (await said(liar, "ready"))["id"]
        address = lab.public_ip("relay")
        on.relay_addrs["relay"] = [
            f"/ip4/{address}/{port}/p2p/{relay_id}"
            for port in ("tcp/4001", "udp/4001/quic-v1/noise")
        ]
        ticket = await on.publish(1)
        await on.finish(await on.fetch(ticket))
        through = f"{on.relay_addrs['relay'][0]}/p2p-circuit/p2p/{on.publisher}"
        argv = [*LATTICA, "node", "--json", *LISTEN, "--connect", through]
        bob = await lab.start("bob", argv, name="bob")
        await said(bob, "peer_connected", peer_id=on.publisher, path="relayed")
        await trio.sleep(TRYING_S)
        for name, watch in watches.items():
            packets = [event for event in watch.events if event["event"] == "packet"]
            kinds = Counter((each["protocol"], each["source"]) for each in packets)
            print(f"lies: {name} got {len(packets)}: {dict(kinds)}")
            assert len(packets) < MOST_FOR_A_STRANGER, kinds


ACTS: tuple[Callable[[], Awaitable[None]], ...] = (
    a_relay_is_killed_under_a_fetch,
    from_relayed_to_direct_and_back_in_one_fetch,
    both_routers_reboot_under_a_fetch,
    clocks_jump_under_a_fetch,
    both_sides_dial_at_once,
    a_relay_that_lies_aims_at_nobody,
)
NAMES_OF_ACTS = [act.__name__ for act in ACTS]


async def play_all() -> dict[str, Exception]:
    """What went wrong, by act. They mostly wait, so that some are played at the same time."""
    wrong: dict[str, Exception] = {}
    left = iter(ACTS)

    async def play() -> None:
        for act in left:
            try:
                await act()
            except Exception as error:
                wrong[act.__name__] = error

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(play)
    return wrong


@pytest.fixture(scope="module")
def wrong() -> dict[str, Exception]:
    require_root()
    return trio.run(play_all)


@pytest.mark.parametrize("act", NAMES_OF_ACTS)
def test_paths(wrong: dict[str, Exception], act: str) -> None:
    if act in wrong:
        raise wrong[act]
