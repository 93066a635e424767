"""Parallax unmodified on our drop-in, where somebody has put its sources: none are downloaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.interop.partners import CACHE

pytestmark = [pytest.mark.root, pytest.mark.timeout(700)]

CHECKOUT = CACHE / "parallax"
STEPS = [
    *("scheduler", "both-joined", "layers", "chat", "stream", "cancel", "abort"),
    *("ring-8KiB", "ring-4096KiB", "ring-32768KiB", "refit", "chat-server", "leave"),
]


@pytest.mark.parametrize("network", ["loopback", "relay"])
def test_every_step_is_right(network: str) -> None:
    if not (CHECKOUT / "src/parallax").is_dir():
        pytest.skip(f"a checkout of Parallax is looked for in {CHECKOUT}")
    command = [sys.executable, "-m", "tools.parallax", str(CHECKOUT), "--json"]
    done = subprocess.run(
        command + ["--relay"] * (network == "relay"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == STEPS
