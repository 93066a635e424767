"""examples/weights_nats.py in its short form: a policy of torch behind one NAT, rollouts behind
others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netlab.holders import require_root
from tests.support.examples import run_example


def test_rollouts_behind_nats_act_by_the_weights_of_the_trainer(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    require_root()
    printed = run_example("weights_nats", tmp_path)
    assert "version 61" in printed
    assert "behind symmetric-random" in printed
