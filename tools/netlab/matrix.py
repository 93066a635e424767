"""Every NAT type against every other: who reaches whom today, and by what path.

For a pair (a, b) a small internet of its own is built: a relay, a node `a` behind one NAT and a
node `b` behind the other. Both know the relay; `b` is told what `a` and the relay know of `a`'s
addresses, and has to reach it. Pairs are ordered: who is asked matters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio
from rich.table import Table
from rich.text import Text

from tools.netlab.mesh import RELAYED
from tools.netlab.model import INTERNET, Host, NodeProgram, Relay, Router, Scenario
from tools.netlab.nat_spec import NAMES
from tools.netlab.report import Report
from tools.netlab.runner import run_scenario

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


def default_jobs() -> int:
    """Pairs at a time: starting programs takes the processor, waiting does not."""
    return 3 * (os.cpu_count() or 1)


def pairs(types: Sequence[str]) -> list[tuple[str, str]]:
    """All ordered pairs, also of a type with itself."""
    return [(a, b) for a in types for b in types]


def pair_scenario(a: str, b: str, wait_s: float = WAIT_S) -> Scenario:
    """The scenario of one pair. KeyError for a NAT type that is unknown."""
    routers = []
    hosts = []
    for name, nat in (("a", a), ("b", b)):
        behind = INTERNET
        if nat != OPEN:
            behind = f"nat-{name}"
            routers.append(Router(behind, nat=NAMES[nat]))
        hosts.append(Host(name, behind=behind))
    programs = (
        NodeProgram("a", "a", connect=("relay",), timeout_s=wait_s),
        NodeProgram("b", "b", connect=("relay", "a"), timeout_s=wait_s),
    )
    return Scenario(
        name="pair",
        about=f"{a} against {b}",
        hosts=tuple(hosts),
        routers=tuple(routers),
        relays=(Relay("relay"),),
        programs=programs,
        duration_s=150.0,
    )


def verdict(a: str, b: str, report: Report) -> PairResult:
    """What the report of a pair's scenario says about the pair."""
    outcome = report.outcome("b")
    links: dict[str, dict[str, float]] = outcome.values.get("links", {})
    times = links.get("a", {})
    direct = {kind: seconds for kind, seconds in times.items() if kind != RELAYED}
    if times:
        path = min(direct, key=lambda kind: direct[kind]) if direct else RELAYED
        return PairResult(
            a, b, True, path, min(direct.values(), default=None), times.get(RELAYED)
        )
    reason = next(
        (f"{one.program}: {one.detail}" for one in report.outcomes if not one.ok), outcome.detail
    )
    return PairResult(a, b, False, None, None, None, " ".join(reason.split()))


async def run_matrix(
    wanted: Iterable[tuple[str, str]],
    jobs: int,
    on_result: Callable[[PairResult], None],
    wait_s: float = WAIT_S,
) -> None:
    """Run pairs, `jobs` at a time; `on_result` is called with each as it is done.

    Raises :class:`tools.netlab.errors.LabError` if a lab cannot be built.
    """
    left = iter(list(wanted))

    async def work() -> None:
        for a, b in left:
            report = await run_scenario(pair_scenario(a, b, wait_s))
            on_result(verdict(a, b, report))

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(work)


def table(types: Sequence[str], results: Iterable[PairResult]) -> Table:
    """The matrix for a terminal: rows are `a`, which is reached; columns `b`, which reaches."""
    found = {(result.a, result.b): result for result in results}
    shown = Table(title="who (column) reaches whom (row)")
    shown.add_column("a \\ b", no_wrap=True)
    for number, _ in enumerate(types, 1):
        shown.add_column(str(number), justify="center")
    for number, a in enumerate(types, 1):
        shown.add_row(f"{number} {a}", *(_cell(found.get((a, b))) for b in types))
    return shown


def _cell(result: PairResult | None) -> Text:
    if result is None:
        return Text("")
    if not result.connected:
        return Text("–", "red")
    if result.path == RELAYED:
        return Text("relay", "yellow")
    assert result.path is not None
    return Text(result.path.removeprefix("direct-"), "green")

