"""The scenes of examples/ run in their short form, and assert their figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, run_example

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
    run_example(scene, tmp_path, timeout=200)


def test_every_scene_is_tried_and_has_its_picture() -> None:
    pictures = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        if "support.processes" in path.read_text():
            assert path.stem in SCENES
            assert f"## [{path.name}]({path.name})" in pictures
