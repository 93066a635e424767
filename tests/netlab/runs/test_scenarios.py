"""Scenarios, the matrix and chaos, run as a user runs them.

All shipped scenarios succeed. Those that keep two processors busy for long are left out here:
`mobile-handover`, `partition-16` and `three-sites`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import trio
from typer.testing import CliRunner

from tests.netlab.holders import require_root
from tests.netlab.labs import PROJECT, netlab_command
from tools.netlab.__main__ import app
from tools.netlab.runs import chaos, faults
from tools.netlab.runs.report import Report
from tools.netlab.runs.runner import run_scenario
from tools.netlab.spec.fault import (
    AddressChange,
    ClockSkew,
    Kill,
    LinkChange,
    NatReboot,
    Partition,
    Pause,
)
from tools.netlab.spec.scenario import load, shipped

# All scenarios are the set-up of the first test.
pytestmark = pytest.mark.timeout(1200)

# Six seconds of faults, once the mesh stands, and the time in which a dead peer is noticed.
CHAOS = chaos.mesh(seed=97, minutes=0.1, nodes=3, start_s=0.5, quiet_s=16.0, mean_gap_s=0.6)

RUN = (
    "lossy-satellite",
    "symmetric-to-cone",
    "home-to-home",
    "office-firewall",
    "relay-failover",
    "cgnat-to-cgnat",
    "pipeline",
)
AT_A_TIME = 4


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def netlab(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, the JSON lines of stdout, stderr."""
    done = await trio.run_process(
        netlab_command(*arguments),
        cwd=PROJECT,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return done.returncode, lines, done.stderr.decode()


async def run_shipped(name: str, out: Path, results: dict[str, dict[str, Any]]) -> None:
    code, lines, errors = await netlab("run", name, "--json", "--out", str(out / name))
    assert lines, errors
    *events, report = lines
    assert report["event"] == "report"
    assert report["scenario"] == name
    assert code == (0 if report["ok"] else 1)
    assert all(event["t"] >= 0 for event in events)
    assert {event["program"] for event in events if "program" in event} <= {
        program["program"] for program in report["programs"]
    }
    scenario = load(shipped()[name])
    assert len(report["programs"]) == len(scenario.all_programs)
    root = ElementTree.fromstring((out / name / "paths.svg").read_text())
    assert root.tag.endswith("svg")
    results[name] = report


def outcome(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [program for program in report["programs"] if program["program"] == name]
    return found


@dataclass
class Results:
    """Of everything that takes long. It mostly waits, so it runs at the same time."""

    scenarios: dict[str, dict[str, Any]] = field(default_factory=dict)
    matrix: tuple[int, list[dict[str, Any]], str] | None = None
    chaos: Report | None = None


async def run_all(out: Path) -> Results:
    results = Results()

    async def run_matrix() -> None:
        results.matrix = await netlab("matrix", "--json", "--types", "open,full-cone")

    async def run_chaos() -> None:
        results.chaos = await run_scenario(CHAOS, judge=chaos.judge)

    left = iter(RUN)

    async def run_some() -> None:
        for name in left:
            await run_shipped(name, out, results.scenarios)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(run_some)
        nursery.start_soon(run_matrix)
        nursery.start_soon(run_chaos)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    require_root()
    return trio.run(run_all, tmp_path_factory.mktemp("out"))


def links(report: dict[str, Any], name: str) -> dict[str, dict[str, float]]:
    """Of a node: to whom it was connected by what kind of path, and after how many seconds."""
    return outcome(report, name)["values"]["links"]


def paths(report: dict[str, Any], name: str) -> list[str]:
    """Of a fetch."""
    return [step["path"] for step in outcome(report, name)["values"]["paths"]]


def is_direct(path: str) -> bool:
    return path.startswith("direct-")


@pytest.mark.parametrize("name", RUN)
def test_a_shipped_scenario_succeeds(results, name):
    report = results.scenarios[name]
    failed = [f"{one['program']}: {one['detail']}" for one in report["programs"] if not one["ok"]]
    assert not failed, "\n".join(failed)
    assert report["ok"], report["complaints"]


def test_a_satellite_takes_its_time(results):
    satellite = results.scenarios["lossy-satellite"]
    # There and back takes 580 ms at least, and a handshake takes several such trips.
    seconds = min(links(satellite, "ship")["relay"].values())  # by QUIC or TCP: they are raced
    assert seconds > 0.5
    assert outcome(satellite, "get")["values"]["bytes"] == 4 << 20


def test_relayed_first_then_direct(results):
    home = results.scenarios["home-to-home"]
    assert any(map(is_direct, links(home, "bob")["alice"]))
    # The way to a publisher leads through the relay at first.
    first, *more = paths(home, "get")
    assert first == "relayed"
    assert all(map(is_direct, more))

    cone = results.scenarios["symmetric-to-cone"]
    assert any(map(is_direct, links(cone, "bob")["alice"]))
    assert any(map(is_direct, links(cone, "alice-too")["bob"]))
    pairs = {(path["source"], path["target"]) for path in cone["paths"]}
    assert {("alice", "relay"), ("alice", "bob"), ("bob", "relay")} <= pairs

    carrier = results.scenarios["cgnat-to-cgnat"]
    assert any(map(is_direct, links(carrier, "carol")["alice"]))


def test_through_firewalls(results):
    office = results.scenarios["office-firewall"]
    # TCP to port 443 is all that is let out: WebSocket to the relay, and nothing direct beyond.
    assert set(links(office, "clerk")["relay"]) == {"direct-ws"}
    assert set(links(office, "worker")["clerk"]) == {"relayed"}
    assert any(map(is_direct, links(office, "worker-too")["student"]))


def test_what_has_no_direct_path_stays_connected(results):
    failover = results.scenarios["relay-failover"]
    assert set(links(failover, "bob")["alice"]) == {"relayed"}
    assert [fault["what"] for fault in failover["faults"]] == ["relay-1 killed"]


def test_the_matrix_prints_a_line_for_each_pair(results):
    code, lines, errors = results.matrix
    assert code == 0, errors
    summary = lines.pop()["summary"]
    assert summary["connected"] == summary["direct_of_direct"] == 100.0
    assert summary["misses"] == []
    assert {(line["a"], line["b"]) for line in lines} == {
        (a, b) for a in ("open", "full-cone") for b in ("open", "full-cone")
    }
    for line in lines:
        # Nothing stands between these.
        assert line["connected"] is True, line
        assert line["path"].startswith("direct-")
        assert line["direct_s"] >= 0
        assert "relayed_s" in line
        assert line["expected"] == "direct"


def test_a_little_chaos(results):
    assert [outcome for outcome in results.chaos.outcomes if not outcome.ok] == []
    assert results.chaos.complaints == ()
    assert len(results.chaos.faults) == len(faults.steps(CHAOS.faults))
    # The seed was chosen for that: nearly every kind of fault.
    kinds = {NatReboot, AddressChange, Partition, ClockSkew, Kill, Pause, LinkChange}
    assert {type(fault) for fault in CHAOS.faults} == kinds


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "no-such-scenario"), "no shipped scenario"),
        (("run", "bad.toml"), "hosts.a.colour: unknown key"),
        (("run", "home-to-home", "--pcap", "nobody"), "no node 'nobody'"),
        (("matrix", "--types", "open,strange"), "no NAT type 'strange'"),
        (("probe", "strange"), "no NAT type 'strange'"),
        (("probe", "full-cone", "--backend", "nftables"), "filters by connection"),
        (("exec", "--lab", "llnone", "a", "true"), "no such lab"),
    ],
)
def test_mistakes_are_explained_in_a_line(tmp_path, arguments, complaint):
    (tmp_path / "bad.toml").write_text("[hosts.a]\ncolour = 'red'")
    arguments = [str(tmp_path / "bad.toml") if word == "bad.toml" else word for word in arguments]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 2
    assert complaint in done.stderr
