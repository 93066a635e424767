"""Paths that come and go under a fetch: real NATs, real commands, real faults.

Times are reported (`pytest -s`), not asserted: what is asserted is what happened, in which order.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root
from tests.netlab.labs import PROJECT
from tools.netlab import skew
from tools.netlab.jobs import make_files, tree_hash
from tools.netlab.lab import Lab, open_lab
from tools.netlab.link_spec import LinkSpec
from tools.netlab.mesh import path_kind
from tools.netlab.model import Scenario
from tools.netlab.nat_spec import NAMES
from tools.netlab.programs import LATTICA, Event, Running
from tools.netlab.topology import Host, Link, Router
from tools.netlab.workload import PublishProgram

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PROGRAMS = str(PROJECT / "tests" / "netlab" / "path_programs.py")
HALF_WAY = LinkSpec(delay_s=0.0125, rate_bps=150e6)
LINE = Link(HALF_WAY, HALF_WAY)
"""Two of these in a row, there and back: 50 ms."""
SIZE_MIB = 64
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
        return [word for addrs in self.relay_addrs.values() for a in addrs for word in ("--relay", a)]

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
        self.publisher = event["peer_id"]
        return str(event["ticket"])

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

    async def path(self, get: Running, *, after: Event | None = None) -> Event:
        """The first path to Alice, or the first one after another."""
        start = 0 if after is None else get.events.index(after) + 1
        news = "peer_connected", "path_changed"
        return await said(get, *news, start=start, peer_id=self.publisher)

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
    require_root()
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
    pytest.fail(f"{running.name} never said {names} {values}: {running.events[-5:]}"
                f"{running.last_words()}")


async def got(running: Running, mib: float) -> Event:
    """The first progress that is so far."""
    with trio.fail_after(ENOUGH_S):
        _, event = await running.wait_event(
            lambda event: event.get("bytes", 0) >= mib * (1 << 20)
        )
    return event


def longest_gap(running: Running, since: float) -> float:
    """Seconds without progress from a moment on."""
    times = [since, *(e["t"] for e in running.events if e["event"] == "progress" and e["t"] > since)]
    return max((b - a for a, b in zip(times, times[1:], strict=False)), default=0.0)


async def test_a_relay_is_killed_under_a_fetch():
    """These two can have no direct path: they go on over the other relay."""
    async with stage("symmetric-random", "relay-1", "relay-2") as on:
        get = await on.fetch(await on.publish())
        first = await on.path(get)
        await got(get, 8)
        victim = on.relay_of(first)
        killed = on.lab.now()
        await on.relays[victim].stop(grace_s=0)
        result = await on.finish(get)
        assert set(on.paths(get)) == {"relayed"}
        second = await on.path(get, after=first)
        assert on.relay_of(second) != victim
        assert result["path"] == "relayed"
        print(f"relay killed: {longest_gap(get, killed):.2f} s without progress")


async def test_from_relayed_to_direct_and_back_in_one_fetch():
    async with stage("port-restricted", "relay") as on:
        get = await on.fetch(await on.publish())
        relayed = await on.path(get)
        assert relayed["path"] == "relayed"
        direct = await on.path(get, after=relayed)
        assert direct["path"].startswith("direct-")
        assert direct["previous"] == "relayed"
        await got(get, 16)
        cut = on.lab.now()
        await on.lab.partition([["home-a"], ["home-b"]])
        again = await on.path(get, after=direct)
        assert again["path"] == "relayed"
        result = await on.finish(get)
        assert result["path"] == "relayed"
        print(
            f"direct {direct['t'] - relayed['t']:.2f} s after relayed; direct path dead: relayed "
            f"after {again['t'] - cut:.2f} s, {longest_gap(get, cut):.2f} s without progress"
        )
