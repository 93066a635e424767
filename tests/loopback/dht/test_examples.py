"""The example runs, and asserts its results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]


def test_workers_behind_a_relay_are_found_while_a_third_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "examples" / "dht_workers.py")],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "6 are gone; gpu/a100: [0, 6, 9, 12, 15]" in done.stdout
