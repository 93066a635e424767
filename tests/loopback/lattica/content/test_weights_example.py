"""The example runs, and asserts that its policy has learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import run_example


@pytest.mark.slow
def test_rollouts_act_by_the_weights_of_the_trainer(tmp_path: Path) -> None:
    assert "version 61" in run_example("weights_rl", tmp_path)
