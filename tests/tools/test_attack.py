"""The attack tool's own parts, and one attack from its start to its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tools.attack import runner
from tools.attack.__main__ import complaints
from tools.attack.runner import Latency, Result, run
from tools.attack.table import ATTACKS, SHORT, load
from tools.attack.witnesses import WITNESSES

FINE = Latency(1.0, 5.0, 20.0, 0)
STOOD = Result(
    "some", FINE, FINE, 5.0, 3.0, 1.0, 5.0, 10.0, 60.0, 90.0, 61.0, 3, {}, {"attempts": 9}
)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_can_be_loaded(name):
    attack = load(name)
    assert attack.summary
    assert attack.witness in ("", *WITNESSES)


def test_the_short_form_has_attacks_that_there_are():
    assert set(SHORT) <= set(ATTACKS)


def test_nothing_is_said_of_a_victim_that_stood_it():
    assert complaints(STOOD) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tcp": replace(FINE, lost=3)}, "3 echoes over TCP lost"),
        ({"quic": replace(FINE, p99=101.0)}, "p99 over QUIC 101 ms"),
        ({"longest_pass": 51.0}, "a pass of 51 ms"),
        ({"memory_after": 81.0}, "21 MiB stayed"),
        ({"witness": {"failed": 2, "error": "refused"}}, "failed: 2 (refused)"),
        ({"witness": {"idle_dropped": 5}}, "idle dropped: 5"),
    ],
)
def test_what_is_wrong_is_said(changes, words):
    (said,) = complaints(replace(STOOD, **changes))
    assert words in said


def test_a_busy_machine_is_not_the_victims_fault():
    late = replace(FINE, p99=400.0)
    assert complaints(replace(STOOD, tcp=late, quiet_p99=300.0)) == []


@pytest.mark.slow
async def test_a_short_attack_by_calls(monkeypatch):
    monkeypatch.setattr(runner, "BEFORE", 0.5)
    monkeypatch.setattr(runner, "AFTER", 0.0)
    result = await run(replace(load("rpc-many-lists"), seconds=1.0))
    assert result.sent_mib > 0
    assert result.tcp.lost == result.quic.lost == 0
    assert result.witness is not None
    assert result.witness["failed"] == result.witness["late"], result.witness["error"]
    assert result.log_lines.get("error", 0) == 0


@pytest.mark.slow
async def test_an_attack_from_start_to_end():
    result = await run(load("yamux-resets"))
    assert result.sent_mib > 0
    assert result.cpu_s > 0
    # Each connection that floods costs one line at most, whatever it sends.
    assert result.log_lines.get("warning", 0) + result.log_lines.get("error", 0) < 500
    assert result.as_json()["attack"] == "yamux-resets"
