"""examples/partition.py in its short form: five peers, and a network that breaks in two."""

from __future__ import annotations

from pathlib import Path

from tests.netlab.holders import require_root
from tests.support.examples import EXAMPLES, run_example


def test_both_sides_of_a_partition_write_and_come_to_one_state(tmp_path: Path) -> None:
    require_root()
    printed = run_example("partition", tmp_path)
    assert "one again" in printed
    assert "## [partition.py](partition.py)" in (EXAMPLES / "README.md").read_text()
