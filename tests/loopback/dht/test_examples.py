"""The example runs, and asserts its results."""

from __future__ import annotations

from pathlib import Path

from tests.support.examples import run_example


def test_workers_behind_a_relay_are_found_while_a_third_is_killed(tmp_path: Path) -> None:
    assert "6 are gone; gpu/a100: [0, 6, 9, 12, 15]" in run_example("dht_workers", tmp_path)
