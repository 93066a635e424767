"""One environment for us and for the programs that we live beside. Resolved, not installed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.slow

# What Parallax 0.0.1 asks for (its pyproject.toml), without the original lattica, which we replace.
PARALLAX = """
msgpack>=1.0.7
safetensors>=0.5.1
huggingface-hub
numpy>=1.26
pyzmq>=25.0
psutil>=5.9.5
httpx[socks]>=0.26.0
aiohttp
uvicorn
uvloop
fastapi
pydantic
py-machineid
protobuf==6.31.1
dijkstar==2.6.0
"""
NOT_THERE = "was not found in the package registry"


def default_index() -> list[str]:
    """The registry that pip is told of by its files; uv reads its own only."""
    found = os.environ.get("PIP_INDEX_URL")
    if found is None:
        pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        result = subprocess.run(pip, capture_output=True, text=True, timeout=240)
        found = result.stdout if result.returncode == 0 else ""
    return ["--default-index", *shlex.split(found)[:1]] if found.strip() else []


def compiled(requirements: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    uv = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--no-progress"]
    options: list[str | Path] = ["--cache-dir", cache, "--python-version", "3.12", *default_index()]
    return subprocess.run(
        [*uv, *options, requirements], capture_output=True, text=True, timeout=500
    )


@pytest.mark.parametrize(
    ("name", "theirs"), [("parallax", PARALLAX), ("vllm", "vllm"), ("sglang", "sglang")]
)
def test_our_requirements_can_be_met_beside_those_of(
    name: str, theirs: str, registry: None, tmp_path: Path
):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = tmp_path / "requirements.in"
    requirements.write_text("\n".join([*project["dependencies"], theirs]))
    result = compiled(requirements, tmp_path / "cache")
    if re.search(rf"\b{name} {NOT_THERE}", result.stderr):
        pytest.skip(f"the registry does not have {name}")
    assert result.returncode == 0, result.stderr[-3000:]
    found = {line.split("==")[0] for line in result.stdout.splitlines() if "==" in line}
    assert {"qh3", "trio", "protobuf", "cryptography"} <= found
    if name == "parallax":
        assert "protobuf==6.31.1" in result.stdout
    assert not found & {"libp2p", "fastecdsa", "multiaddr", "varint", "python-baseconv"}
