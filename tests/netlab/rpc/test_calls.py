"""Calls under chaos, in short: `python -m tools.netlab calls` is the same with more of all."""

from __future__ import annotations

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.calls import chaos
from tools.netlab.lab.programs import Event
from tools.netlab.runs.runner import run_scenario
from tools.netlab.spec.fault import AddressChange, Kill, LinkDown

pytestmark = pytest.mark.root

CALLS, SECONDS = 4000, 24
FAULTS = (
    AddressChange(6, chaos.HOMES[1]),
    Kill(9, chaos.SERVER, 0.5),
    Kill(13, chaos.CALLER, 0.5),
    AddressChange(16, chaos.HOMES[0]),
    LinkDown(17, "bob", 1),
)


def test_calls_run_at_most_once_while_paths_change_and_programs_are_killed() -> None:
    require_root()
    paths: set[str | None] = set()

    def on_event(_: str, event: Event) -> None:
        if event.get("event") == "path":
            paths.add(event["path"])

    judge = chaos.Judge()
    report = trio.run(
        run_scenario, chaos.scenario(1, CALLS, SECONDS, FAULTS), None, on_event, judge
    )
    assert not report.complaints
    assert report.ok, report.as_json()
    counts = judge.tally
    assert counts is not None
    assert counts.attempted >= CALLS - 1
    assert 0 < counts.acknowledged <= counts.executed <= counts.attempted
    assert counts.lives == 2
    assert "relayed" in paths
    assert any(path is not None and path.startswith("direct-") for path in paths)
