"""The wheel, built from this checkout, and the package registry, where it can be reached."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("lattica", "nat", "crdt", "rpc", "dht")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a stale build folder would ship modules that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
    ):
        shutil.copy(ROOT / name, source)
    for name in FLOORS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, source], check=True, timeout=300)
    (built,) = folder.glob("lattica_stack-*.whl")
    return built


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where no package can be had: then nothing here would say anything about ours."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]
    folder = tmp_path_factory.mktemp("registry")
    probe = subprocess.run(
        [*pip, "-d", folder, "outcome"], capture_output=True, text=True, timeout=300
    )
    if probe.returncode:
        pytest.skip(f"the package registry cannot be reached: {probe.stderr.strip()[-300:]}")
