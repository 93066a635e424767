"""The ledger of calls under chaos: what it counts, and each thing that it must find wrong."""

from __future__ import annotations

import pytest

from tools.netlab.calls import chaos
from tools.netlab.calls.ledger import Tally, tally
from tools.netlab.spec.fault import AddressChange, Handover, Kill, NatReboot


def test_counts() -> None:
    counts, complaints = tally(
        ["1-0", "1-1", "1-2", "2-3"],
        ["1-0 ok", "1-1 UNAVAILABLE may-have-run", "1-2 UNAVAILABLE not-run"],
        ["1-0 7", "1-1 8"],
    )
    assert complaints == []
    assert counts == Tally(
        attempted=4,
        executed=2,
        acknowledged=1,
        failed={"UNAVAILABLE may-have-run": 1, "UNAVAILABLE not-run": 1},
        untold=1,
        lives=2,
    )


@pytest.mark.parametrize(
    ("attempts", "outcomes", "executed", "complaint"),
    [
        (["a"], ["a ok"], ["a 1", "a 1"], "1 calls were executed twice: a"),
        (["a"], ["a ok"], ["a 1", "a 2"], "1 calls were executed twice: a"),
        ([], [], ["a 1"], "1 calls were executed, but not attempted: a"),
        (["a"], ["a ok"], [], "1 calls were acknowledged, but not executed: a"),
        (
            ["a"],
            ["a UNAVAILABLE not-run"],
            ["a 1"],
            "1 calls were executed, though told not to have run: a",
        ),
        (["a"], ["a ok", "a UNKNOWN may-have-run"], ["a 1"], "1 calls had two outcomes: a"),
        (["a", "a"], ["a ok"], ["a 1"], "1 calls were attempted twice: a"),
        ([], ["a X not-run"], [], "1 calls had an outcome, but were not attempted: a"),
    ],
)
def test_what_is_wrong_is_found(
    attempts: list[str], outcomes: list[str], executed: list[str], complaint: str
) -> None:
    assert complaint in tally(attempts, outcomes, executed)[1]


def test_the_same_seed_makes_the_same_faults_and_every_kind_of_them() -> None:
    made = chaos.scenario(3, 1000, 600)
    assert made == chaos.scenario(3, 1000, 600)
    assert made.faults != chaos.scenario(4, 1000, 600).faults
    killed = {fault.program for fault in made.faults if isinstance(fault, Kill)}
    assert {chaos.SERVER, chaos.CALLER} <= killed
    assert killed & {*chaos.RELAYS}
    for kind in (AddressChange, Handover, NatReboot):
        assert any(isinstance(fault, kind) for fault in made.faults)
