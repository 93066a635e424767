"""The example runs, and asserts that its policy has learned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[4] / "examples" / "weights_rl.py"


@pytest.mark.slow
def test_rollouts_act_by_the_weights_of_the_trainer() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "version 61" in done.stdout
