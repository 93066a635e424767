"""The scenes of examples/ run in their short form, and assert their figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENES = [
    "work_queue",
    "agents",
    "gossip_learning",
    "modest",
    "diloco",
    "swarm_inference",
    "rag",
]


@pytest.mark.parametrize("scene", SCENES)
def test_scene(scene: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{scene}.py")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_every_scene_is_tried_and_has_its_picture() -> None:
    pictures = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        if "support.processes" in path.read_text():
            assert path.stem in SCENES
            assert f"## [{path.name}]({path.name})" in pictures
