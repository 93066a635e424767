"""Every NAT type against every other: who reaches whom today, and by what path.

For a pair (a, b) there is a node `a` behind one NAT and a node `b` behind the other. Both know two
relays; `b` is told `a`'s addresses, those through the relays included, and has to reach it. Pairs
are ordered: who is asked matters. Some pairs share a lab and its relays, but no NAT.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import trio
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tools.netlab.runs.mesh import RELAYED
from tools.netlab.runs.report import Report
from tools.netlab.runs.runner import run_scenario
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.theory import Expected, expected
from tools.netlab.spec.topology import Host, Link, Relay, Router
from tools.netlab.spec.workload import NodeProgram

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
DIRECT_WITHIN = 30.0
"""Seconds that `b` has to reach `a` directly, after it is ready."""
STAYS_RELAYED = 10.0
"""Seconds after which it will not any more where theory knows of no way."""
BATCH = 4
"""Pairs in one lab."""
RELAYS = ("relay", "relay-2")
"""Two, so that nodes can tell how their NAT treats different destinations."""
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
    connection of that kind. reason: why not, if they are not connected. expected: what theory
    says, see :mod:`tools.netlab.spec.theory`.
    """

    a: str
    b: str
    connected: bool
    path: str | None
    direct_s: float | None
    relayed_s: float | None
    reason: str | None = None
    expected: Expected = "direct"

    @property
    def is_direct(self) -> bool:
        return self.connected and self.path != RELAYED

    @property
    def is_miss(self) -> bool:
        """It is worse than theory allows."""
        return not self.connected or (self.expected != "relayed" and not self.is_direct)

    def as_json(self) -> dict[str, object]:
        """Plain JSON types; all fields are always there."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def default_jobs() -> int:
    """Labs at a time: starting programs takes the processors, waiting for connections does not."""
    return 1 + (os.cpu_count() or 1)


def pairs(types: Sequence[str]) -> list[Pair]:
    """All ordered pairs, also of a type with itself."""
    return [(a, b) for a in types for b in types]


def theory(pair: Pair) -> Expected:
    """What theory says of a pair."""
    return expected(*(None if name == OPEN else NAMES[name] for name in pair))


def wait_s(pair: Pair) -> float:
    """What a pair has to become direct."""
    return STAYS_RELAYED if theory(pair) == "relayed" else DIRECT_WITHIN


def batches(wanted: Sequence[Pair], size: int = BATCH) -> list[list[Pair]]:
    """The pairs in portions for one lab each: those that take equally long, the longest first."""
    kinds: tuple[Expected, ...] = ("birthday", "direct", "relayed")
    parts = [[pair for pair in wanted if theory(pair) == kind] for kind in kinds]
    return [part[start : start + size] for part in parts for start in range(0, len(part), size)]


def scenario_for(wanted: Sequence[Pair], delay_s: float = 0.0) -> Scenario:
    """The scenario of some pairs: nodes a0 and b0 for the first, a1 and b1 for the next, …

    delay_s: from one machine to another; half of it on the line of each. KeyError for a NAT type
    that is unknown.
    """
    routers: list[Router] = []
    hosts: list[Host] = []
    programs: list[NodeProgram] = []
    line = Link(LinkSpec(delay_s=delay_s / 2), LinkSpec(delay_s=delay_s / 2))
    for number, pair in enumerate(wanted):
        for letter, nat in zip("ab", pair, strict=True):
            name = f"{letter}{number}"
            if nat == OPEN:
                hosts.append(Host(name, link=line))
            else:
                behind = f"nat-{name}"
                routers.append(Router(behind, nat=NAMES[nat], link=line))
                hosts.append(Host(name, behind=behind))
            connect = RELAYS if letter == "a" else (*RELAYS, f"a{number}")
            programs.append(NodeProgram(name, name, connect=connect, timeout_s=wait_s(pair)))
    return Scenario(
        name="matrix",
        about="; ".join(f"{a} against {b}" for a, b in wanted),
        hosts=tuple(hosts),
        routers=tuple(routers),
        relays=tuple(Relay(name, link=line) for name in RELAYS),
        programs=tuple(programs),
        duration_s=600.0,
    )


def verdict(pair: Pair, number: int, report: Report) -> PairResult:
    """What the report of :func:`scenario_for` says about pair `number` of it."""
    names = (*RELAYS, f"a{number}", f"b{number}")
    outcomes = [report.outcome(name) for name in names]
    links: dict[str, dict[str, float]] = outcomes[-1].values.get("links", {})
    times = links.get(f"a{number}", {})
    if times:
        direct = {kind: seconds for kind, seconds in times.items() if kind != RELAYED}
        path = min(direct, key=lambda kind: direct[kind]) if direct else RELAYED
        soonest = min(direct.values(), default=None)
        return PairResult(*pair, True, path, soonest, times.get(RELAYED), expected=theory(pair))
    failed = [f"{one.program}: {one.detail}" for one in outcomes if not one.ok]
    # In the lab they had numbers.
    reason = re.sub(rf"\b([ab]){number}\b", r"\1", " ".join(" ".join(failed).split()))
    return PairResult(*pair, False, None, None, None, reason, theory(pair))


async def run_matrix(
    wanted: Sequence[Pair],
    jobs: int,
    on_result: Callable[[PairResult], None],
    delay_s: float = 0.0,
) -> None:
    """Run pairs, `jobs` labs at a time; `on_result` is called with each pair as it is done.

    Raises :class:`tools.netlab.errors.LabError` if a lab cannot be built.
    """
    left = iter(batches(wanted))

    async def work() -> None:
        for batch in left:
            report = await run_scenario(scenario_for(batch, delay_s))
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


def summary(results: Sequence[PairResult]) -> dict[str, Any]:
    """All pairs in a few numbers, as plain JSON types; None where there is nothing to count.

    Percentages, seconds, and the pairs that are worse than theory allows (a, b, expected, path).
    """

    def direct_of(kind: Expected) -> float | None:
        these = [result for result in results if result.expected == kind]
        return _percentage(sum(result.is_direct for result in these), len(these))

    relayed = [result.relayed_s for result in results if result.relayed_s is not None]
    direct = [result.direct_s for result in results if result.direct_s is not None]
    upgrades = [
        result.direct_s - result.relayed_s
        for result in results
        if result.direct_s is not None
        and result.relayed_s is not None
        and result.expected == "direct"
        and result.direct_s >= result.relayed_s
    ]
    return {
        "pairs": len(results),
        "connected": _percentage(sum(result.connected for result in results), len(results)),
        "direct_of_direct": direct_of("direct"),
        "direct_of_birthday": direct_of("birthday"),
        "relayed_s": _spread(relayed),
        "direct_s": _spread(direct),
        "relayed_to_direct_s": _spread(upgrades),
        "misses": [
            {"a": one.a, "b": one.b, "expected": one.expected, "path": one.path}
            for one in results
            if one.is_miss
        ],
    }


def _percentage(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and 95th percentile (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return {"count": len(ordered), "median": round(median(ordered), 3), "p95": round(p95, 3)}


def summary_table(found: dict[str, Any]) -> Group:
    """:func:`summary` for a terminal."""
    shown = Table(show_header=False)
    for key, title in (
        ("connected", "connected, % of all pairs"),
        ("direct_of_direct", "direct, % of those that theory says are"),
        ("direct_of_birthday", "direct, % of those that need the birthday method"),
    ):
        shown.add_row(title, "-" if found[key] is None else f"{found[key]:g}")
    for key, title in (
        ("relayed_s", "until relayed, s: median, 95%"),
        ("direct_s", "until direct, s: median, 95%"),
        ("relayed_to_direct_s", "from relayed to direct, s: median, 95%"),
    ):
        spread = found[key]
        shown.add_row(title, f"{spread['median']:g}, {spread['p95']:g}" if spread else "-")
    misses = [
        Text(f"{one['b']} to {one['a']}: {one['path'] or 'not connected'}, not {one['expected']}")
        for one in found["misses"]
    ]
    return Group(shown, *misses)


def _cell(result: PairResult | None) -> Text:
    if result is None:
        return Text("")
    if result.path is None:
        return Text("-", "red")
    mark = MARKS.get(result.path, "?")
    return Text(mark, "yellow" if result.path == RELAYED else "green")
