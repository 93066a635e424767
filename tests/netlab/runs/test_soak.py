"""A soak's short form: the members do all their work while a guest is killed and comes again."""

from __future__ import annotations

import json
import sys

import pytest
import trio

from tests.netlab.holders import require_root
from tests.netlab.labs import PROJECT
from tools.soak.watch import WORK


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def test_a_soak_of_seconds(tmp_path):
    command = [sys.executable, "-m", "tools.soak", "--minutes", "0.12", "--homes", "1"]
    command += ["--guests", "1", "--json", "--out", str(tmp_path)]
    done = await trio.run_process(
        command, cwd=PROJECT, capture_stdout=True, capture_stderr=True, check=False
    )
    found = json.loads(done.stdout)
    assert found["complaints"] == []
    assert found["ok"]
    assert done.returncode == 0
    assert found["faults"] >= 1
    assert {*found["work"]} == {"anchor", "home-1"}
    for work in found["work"].values():
        assert {*WORK} <= {kind for kind, count in work["done"].items() if count}
    judged = {(each["program"], each["figure"]) for each in found["figures"]}
    assert {("relay-1", "MiB"), ("anchor", "files"), ("home-1", "threads")} <= judged
    assert "Traceback" not in (tmp_path / "anchor.stderr.log").read_text()
