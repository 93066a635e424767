"""The figures of the CRDT store are of work that is really done."""

from __future__ import annotations

from tools.bench import venvs
from tools.bench.crdt import ours, peers, scenarios


def test_every_case_is_measured_by_those_who_can(monkeypatch):
    def no_index(*args: object) -> None:
        raise venvs.SetupError("no index")

    monkeypatch.setattr(venvs, "ensure", no_index)
    said: list[str] = []
    found = list(scenarios.run_all(1000, 40, 1, said.append))
    assert said == ["automerge cannot take part: no index"]
    assert {m.case.name for m in found if m.impl == "lattica"} == set(scenarios._CASES)
    assert {m.case.name for m in found if m.impl == "pycrdt"} == {
        "entries-single",
        "write",
        "fresh-snapshot",
        "snapshot-keys",
    }
    assert all(m.value > 0 for m in found)


def test_an_entry_is_as_long_and_a_difference_as_cheap_as_promised():
    _, overhead = ours.single_entries(50)
    assert overhead <= 120
    turns, size = ours.reconciled(300, 10)
    assert turns <= 6
    assert size <= 20_000


def test_automerge_is_asked_for_what_it_can_do(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.5\n")
    python.chmod(0o755)
    assert peers.automerge_write(python, 10) == 0.5
