"""Every NAT type against every other: who reaches whom today, and by what path.

For a pair (a, b) there is a node `a` behind one NAT and a node `b` behind the other. Both know a
relay; `b` is told what `a` and the relay know of `a`'s addresses, and has to reach it. Pairs are
ordered: who is asked matters. Some pairs share a lab and its relay, but no NAT.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tools.netlab.mesh import RELAYED
from tools.netlab.model import Scenario
from tools.netlab.nat_spec import NAMES
from tools.netlab.report import Report
from tools.netlab.runner import run_scenario
from tools.netlab.topology import INTERNET, Host, Relay, Router
from tools.netlab.workload import NodeProgram

OPEN = "open"
"""No NAT: a public address of its own."""
ALL_TYPES = (OPEN, *NAMES)
TYPES = (
    OPEN,
    "full-cone",
    "restricted-cone",
    "port-restricted",
    "linux-masquerade",
    "symmetric-sequential",
    "symmetric-random",
    "cgnat",
    "firewall",
    "udp-blocked",
    "tcp-443-only",
    "upnp",
)
WAIT_S = 6.0
"""What `b` has to reach `a`, after it is ready."""
BATCH = 4
"""Pairs in one lab."""
MARKS = {
    "direct-tcp": "T",
    "direct-quic": "Q",
    "direct-ws": "W",
    "direct-wss": "W",
    "direct-udp": "U",
    "direct-webrtc": "U",
    RELAYED: "R",
}

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PairResult:
    """What came of one pair. The seconds count from when `b` was ready; None if there was no
    connection of that kind. reason: why not, if they are not connected.
    """

    a: str
    b: str
    connected: bool
    path: str | None
    direct_s: float | None
    relayed_s: float | None
    reason: str | None = None

    def as_json(self) -> dict[str, object]:
        """Plain JSON types; all fields are always there."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def default_jobs() -> int:
    """Labs at a time: starting programs takes the processors, waiting for connections does not."""
    return 1 + (os.cpu_count() or 1)


def pairs(types: Sequence[str]) -> list[Pair]:
    """All ordered pairs, also of a type with itself."""
    return [(a, b) for a in types for b in types]


def batches(wanted: Sequence[Pair], size: int = BATCH) -> list[list[Pair]]:
    """The pairs in portions for one lab each."""
    return [list(wanted[start : start + size]) for start in range(0, len(wanted), size)]


def scenario_for(wanted: Sequence[Pair], wait_s: float = WAIT_S) -> Scenario:
    """The scenario of some pairs: nodes a0 and b0 for the first, a1 and b1 for the next, …

    KeyError for a NAT type that is unknown.
    """
    routers: list[Router] = []
    hosts: list[Host] = []
    programs: list[NodeProgram] = []
    for number, pair in enumerate(wanted):
        for letter, nat in zip("ab", pair, strict=True):
            name = f"{letter}{number}"
            behind = INTERNET
            if nat != OPEN:
                behind = f"nat-{name}"
                routers.append(Router(behind, nat=NAMES[nat]))
            hosts.append(Host(name, behind=behind))
            connect = ("relay",) if letter == "a" else ("relay", f"a{number}")
            programs.append(NodeProgram(name, name, connect=connect, timeout_s=wait_s))
    return Scenario(
        name="matrix",
        about="; ".join(f"{a} against {b}" for a, b in wanted),
        hosts=tuple(hosts),
        routers=tuple(routers),
        relays=(Relay("relay"),),
        programs=tuple(programs),
        duration_s=300.0,
    )


def verdict(pair: Pair, number: int, report: Report) -> PairResult:
    """What the report of :func:`scenario_for` says about pair `number` of it."""
    names = ("relay", f"a{number}", f"b{number}")
    outcomes = [report.outcome(name) for name in names]
    links: dict[str, dict[str, float]] = outcomes[-1].values.get("links", {})
    times = links.get(names[1], {})
    if times:
        direct = {kind: seconds for kind, seconds in times.items() if kind != RELAYED}
        path = min(direct, key=lambda kind: direct[kind]) if direct else RELAYED
        soonest = min(direct.values(), default=None)
        return PairResult(*pair, True, path, soonest, times.get(RELAYED))
    failed = [f"{one.program}: {one.detail}" for one in outcomes if not one.ok]
    # In the lab they had numbers.
    reason = re.sub(rf"\b([ab]){number}\b", r"\1", " ".join(" ".join(failed).split()))
    return PairResult(*pair, False, None, None, None, reason)


async def run_matrix(
    wanted: Sequence[Pair],
    jobs: int,
    on_result: Callable[[PairResult], None],
    wait_s: float = WAIT_S,
) -> None:
    """Run pairs, `jobs` labs at a time; `on_result` is called with each pair as it is done.

    Raises :class:`tools.netlab.errors.LabError` if a lab cannot be built.
    """
    left = iter(batches(wanted))

    async def work() -> None:
        for batch in left:
            report = await run_scenario(scenario_for(batch, wait_s))
            for number, pair in enumerate(batch):
                on_result(verdict(pair, number, report))

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(work)


def table(types: Sequence[str], results: Iterable[PairResult]) -> Group:
    """The matrix for a terminal: rows are `a`, which is reached; columns `b`, which reaches."""
    found = {(result.a, result.b): result for result in results}
    connected = sum(result.connected for result in found.values())
    shown = Table()
    shown.add_column("", no_wrap=True)
    for number, _ in enumerate(types, 1):
        shown.add_column(str(number), justify="center", no_wrap=True, min_width=2)
    for number, a in enumerate(types, 1):
        shown.add_row(f"{number:2} {a}", *(_cell(found.get((a, b))) for b in types))
    return Group(
        Text(f"who (column) reaches whom (row): {connected} of {len(found)} pairs", "bold"),
        shown,
        Text("T: direct, TCP; Q: QUIC; W: WebSocket; U: other UDP; R: relayed; -: not connected"),
    )


def _cell(result: PairResult | None) -> Text:
    if result is None:
        return Text("")
    if result.path is None:
        return Text("-", "red")
    mark = MARKS.get(result.path, "?")
    return Text(mark, "yellow" if result.path == RELAYED else "green")
